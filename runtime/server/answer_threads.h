#ifndef LONGSPAN_RUNTIME_SERVER_ANSWER_THREADS_H_
#define LONGSPAN_RUNTIME_SERVER_ANSWER_THREADS_H_

#include <atomic>
#include <boost/asio/post.hpp>
#include <boost/asio/strand.hpp>
#include <boost/asio/thread_pool.hpp>
#include <cstdint>
#include <optional>
#include <utility>

namespace longspan {

// Threads that make answers of what the engine's thread hands over: texts, JSON, the log. All
// sequences wait for the engine's thread, so it only moves data.
class AnswerThreads {
 public:
  explicit AnswerThreads(int threads) : pool_(threads) {}
  ~AnswerThreads() { pool_.join(); }

  // Tasks of one order run one after the other, as they were posted.
  using Order = boost::asio::strand<boost::asio::thread_pool::executor_type>;
  Order NewOrder() { return boost::asio::make_strand(pool_); }

  template <typename Task>
  void Post(const Order& order, Task task) {
    ++pending_;
    boost::asio::post(order, [this, task = std::make_optional(std::move(task))]() mutable {
      (*task)();
      task.reset();  // before it counts as done: to drop what it held may post another
      --pending_;
      pending_.notify_all();
    });
  }

  // Until all tasks, and those that they post, are done.
  void Wait() const {
    for (int64_t pending = pending_; pending > 0; pending = pending_) pending_.wait(pending);
  }

 private:
  std::atomic<int64_t> pending_ = 0;
  boost::asio::thread_pool pool_;
};

}  // namespace longspan

#endif  // LONGSPAN_RUNTIME_SERVER_ANSWER_THREADS_H_
