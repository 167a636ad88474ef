#include "collectives/thread_communicator.h"

#include <algorithm>
#include <condition_variable>
#include <cstring>
#include <deque>
#include <exception>
#include <limits>
#include <memory>
#include <mutex>
#include <optional>
#include <thread>
#include <tuple>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "collectives/argument_checks.h"
#include "collectives/ordered_float.h"
#include "collectives/watchdog.h"
#include "kernels/base/status_macros.h"

namespace longspan {
namespace {

using Lock = std::unique_lock<std::mutex>;
using Clock = std::chrono::steady_clock;

void CopyBytes(void* to, const void* from, int64_t bytes) {
  if (bytes > 0 && to != from) std::memcpy(to, from, static_cast<size_t>(bytes));
}

// What the ranks of one job share. The standard mutex and not Abseil's: ThreadSanitizer does not
// see into a packaged Abseil. For the same reason an error crosses threads as a code and a string,
// never as an absl::Status, whose count of references it cannot follow.
class ThreadGroup {
 public:
  ThreadGroup(int size, absl::Duration timeout)
      : size_(size), timeouts_(size, timeout), wakeups_(size), ranks_(size), published_(size) {}

  int size() const { return size_; }
  absl::Duration& timeout(int rank) { return timeouts_[rank]; }

  // Enters a collective call: fails if the group has failed, or if another rank's call with this
  // sequence number is a different one.
  absl::Status Enter(int rank, const CallRecord& call);
  void Leave(int rank, const CallRecord& call);

  // Waits for all ranks; then every rank calls `use` with what each has published, and none returns
  // before all have used it.
  absl::Status Meet(int rank, const CallRecord& call, const void* publish,
                    absl::FunctionRef<void(absl::Span<const void* const>)> use);

  // A message is a copy: no rank ever touches memory that a failing rank may have freed.
  void Post(int64_t sequence, int from, int to, std::vector<char> message);
  absl::StatusOr<std::vector<char>> Take(int rank, const CallRecord& call);

  void Fail(int rank, const absl::Status& error);
  void Finish(int rank, const CallRecord& last_call);
  // The first failure, or an error for messages that nobody received.
  absl::Status Result();

 private:
  struct Rank {
    RankStatus::State state = RankStatus::kComputing;
    CallRecord call;
    Stopwatch since;
  };
  struct FirstEntry {
    CallRecord call;
    int rank = 0;
    int entered = 1;
  };
  struct Failure {
    absl::StatusCode code;
    std::string message;
  };
  using MessageKey = std::tuple<int64_t, int, int>;  // sequence, from, to

  void SetState(int rank, RankStatus::State state, const CallRecord& call) {
    ranks_[rank] = {state, call, Stopwatch()};
  }
  absl::Status FailureStatus() const { return absl::Status(failure_->code, failure_->message); }
  absl::Status FailLocked(absl::StatusCode code, std::string message);
  void WakeAll() {
    for (std::condition_variable& wakeup : wakeups_) wakeup.notify_one();
  }
  bool Arrive();
  std::string Report(int rank, const CallRecord& call);
  bool SomeoneLeftBefore(const CallRecord& call) const;
  template <typename Predicate>
  absl::Status WaitFor(Lock& lock, int rank, const CallRecord& call, Predicate done);

  const int size_;
  std::vector<absl::Duration> timeouts_;  // each read and written by its rank alone
  std::mutex mutex_;
  std::vector<std::condition_variable> wakeups_;  // one a rank
  std::optional<Failure> failure_;
  std::vector<Rank> ranks_;
  std::map<int64_t, FirstEntry> entries_;  // the calls that some ranks have entered and some not
  std::map<MessageKey, std::deque<std::vector<char>>> messages_;
  std::vector<const void*> published_;
  int arrived_ = 0;
  int64_t meetings_ = 0;
};

absl::Status ThreadGroup::FailLocked(absl::StatusCode code, std::string message) {
  if (!failure_) failure_ = Failure{code, std::move(message)};
  WakeAll();
  return FailureStatus();
}

absl::Status ThreadGroup::Enter(int rank, const CallRecord& call) {
  Lock lock(mutex_);
  if (failure_) return FailureStatus();
  SetState(rank, RankStatus::kInCall, call);
  const auto [it, is_first] = entries_.try_emplace(call.sequence, FirstEntry{call, rank});
  if (is_first) {
    if (size_ == 1) entries_.erase(it);
    return absl::OkStatus();
  }
  FirstEntry& first = it->second;
  if (first.call.agreement != call.agreement) {
    std::vector<std::string> calls(size_);
    calls[first.rank] = DescribeCall(first.call);
    calls[rank] = DescribeCall(call);
    return FailLocked(absl::StatusCode::kInternal, MismatchMessage(calls));
  }
  if (++first.entered == size_) entries_.erase(it);
  return absl::OkStatus();
}

void ThreadGroup::Leave(int rank, const CallRecord& call) {
  Lock lock(mutex_);
  SetState(rank, RankStatus::kComputing, call);
}

std::string ThreadGroup::Report(int rank, const CallRecord& call) {
  std::vector<RankStatus> status;
  for (const Rank& r : ranks_) status.push_back(MakeRankStatus(r.state, r.call, r.since.Seconds()));
  return TimeoutMessage(rank, call, ranks_[rank].since.Seconds(), status);
}

bool ThreadGroup::SomeoneLeftBefore(const CallRecord& call) const {
  return std::any_of(ranks_.begin(), ranks_.end(), [&](const Rank& r) {
    return r.state == RankStatus::kFinished && r.call.sequence < call.sequence;
  });
}

template <typename Predicate>
absl::Status ThreadGroup::WaitFor(Lock& lock, int rank, const CallRecord& call, Predicate done) {
  // An infinite timeout would overflow the clock.
  const absl::Duration timeout = std::min(timeouts_[rank], absl::Hours(24 * 365));
  const auto deadline = Clock::now() + absl::ToChronoNanoseconds(timeout);
  bool timed_out = false;
  while (!done()) {
    if (failure_) return FailureStatus();
    if (timed_out) return FailLocked(absl::StatusCode::kDeadlineExceeded, Report(rank, call));
    if (SomeoneLeftBefore(call)) {
      return FailLocked(
          absl::StatusCode::kInternal,
          absl::StrCat("a rank returned while others wait for it: ", Report(rank, call)));
    }
    timed_out = wakeups_[rank].wait_until(lock, deadline) == std::cv_status::timeout;
  }
  return absl::OkStatus();
}

// True for the last rank to arrive, which opens the way for all.
bool ThreadGroup::Arrive() {
  if (++arrived_ < size_) return false;
  arrived_ = 0;
  ++meetings_;
  WakeAll();
  return true;
}

absl::Status ThreadGroup::Meet(int rank, const CallRecord& call, const void* publish,
                               absl::FunctionRef<void(absl::Span<const void* const>)> use) {
  Lock lock(mutex_);
  if (failure_) return FailureStatus();
  published_[rank] = publish;
  int64_t meeting = meetings_;
  if (!Arrive()) {
    LONGSPAN_RETURN_IF_ERROR(WaitFor(lock, rank, call, [&] { return meetings_ != meeting; }));
  }
  lock.unlock();
  use(published_);
  lock.lock();
  // From here on all ranks are in `use` and will come: no failure may let one leave before.
  ++meeting;
  if (!Arrive()) wakeups_[rank].wait(lock, [&] { return meetings_ != meeting; });
  return absl::OkStatus();
}

void ThreadGroup::Post(int64_t sequence, int from, int to, std::vector<char> message) {
  Lock lock(mutex_);
  messages_[{sequence, from, to}].push_back(std::move(message));
  wakeups_[to].notify_one();
}

// Takes the next message of call.peer to this rank.
absl::StatusOr<std::vector<char>> ThreadGroup::Take(int rank, const CallRecord& call) {
  Lock lock(mutex_);
  SetState(rank, RankStatus::kInCall, call);
  const MessageKey key{call.sequence, call.peer, rank};
  auto it = messages_.end();
  LONGSPAN_RETURN_IF_ERROR(WaitFor(lock, rank, call, [&] {
    it = messages_.find(key);
    return it != messages_.end();
  }));
  std::vector<char> message = std::move(it->second.front());
  it->second.pop_front();
  if (it->second.empty()) messages_.erase(it);
  return message;
}

void ThreadGroup::Fail(int rank, const absl::Status& error) {
  Lock lock(mutex_);
  if (failure_) return;
  FailLocked(error.code(), absl::StrCat("rank ", rank, ": ", error.message())).IgnoreError();
}

void ThreadGroup::Finish(int rank, const CallRecord& last_call) {
  Lock lock(mutex_);
  SetState(rank, RankStatus::kFinished, last_call);
  WakeAll();
}

absl::Status ThreadGroup::Result() {
  Lock lock(mutex_);
  if (failure_) return FailureStatus();
  if (messages_.empty()) return absl::OkStatus();
  const auto& [key, queue] = *messages_.begin();
  return absl::InternalError(
      absl::StrCat("rank ", std::get<2>(key), " did not receive ", queue.front().size(),
                   " bytes that rank ", std::get<1>(key), " sent it in call #", std::get<0>(key)));
}

class ThreadCommunicator : public Communicator {
 public:
  ThreadCommunicator(ThreadGroup& group, int rank) : group_(group), rank_(rank) {}

  int rank() const override { return rank_; }
  int size() const override { return group_.size(); }
  const CommunicatorStats& stats() const override { return stats_; }
  const CallRecord& last_call() const { return last_call_; }
  void set_timeout(absl::Duration timeout) override { group_.timeout(rank_) = timeout; }
  absl::Duration timeout() const override { return group_.timeout(rank_); }

  absl::Status Barrier(std::string_view name) override;
  absl::Status Broadcast(std::string_view name, void* data, int64_t bytes, int root) override;
  absl::Status AllGather(std::string_view name, const void* send, void* receive,
                         int64_t bytes_per_rank) override;
  absl::Status AllGatherV(std::string_view name, const void* send, void* receive,
                          absl::Span<const int64_t> bytes) override;
  absl::Status AllReduceMax(std::string_view name, float* data, int64_t count) override;
  absl::Status AllReduceSum(std::string_view name, double* data, int64_t count) override {
    return SumInRankOrder(name, data, count);
  }
  absl::Status AllReduceSum(std::string_view name, uint32_t* data, int64_t count) override {
    return SumInRankOrder(name, data, count);
  }
  absl::StatusOr<ExchangeId> StartExchange(std::string_view name, absl::Span<const Transfer> sends,
                                           absl::Span<const Transfer> receives) override;
  absl::Status WaitExchange(ExchangeId exchange) override;
  void Progress() override {}
  void Abort(const absl::Status& error) override { group_.Fail(rank_, error); }

 private:
  struct Exchange {
    CallRecord call;
    std::vector<Transfer> receives;
  };

  int64_t others() const { return size() - 1; }
  // Numbers the call, checks that the ranks agree on it, runs `body` and counts it.
  absl::Status Run(CallRecord call, absl::Span<const int64_t> sizes, int64_t bytes_sent,
                   absl::FunctionRef<absl::Status(const CallRecord&)> body);
  // A Run whose body is a Meet.
  absl::Status RunMeeting(const CallRecord& call, absl::Span<const int64_t> sizes,
                          int64_t bytes_sent, const void* publish,
                          absl::FunctionRef<void(absl::Span<const void* const>)> use) {
    return Run(call, sizes, bytes_sent, [&](const CallRecord& numbered) {
      return group_.Meet(rank_, numbered, publish, use);
    });
  }

  template <typename T>
  absl::Status SumInRankOrder(std::string_view name, T* data, int64_t count);

  ThreadGroup& group_;
  const int rank_;
  CallRecord last_call_;
  CommunicatorStats stats_;
  std::map<ExchangeId, Exchange> exchanges_;
};

absl::Status ThreadCommunicator::Run(CallRecord call, absl::Span<const int64_t> sizes,
                                     int64_t bytes_sent,
                                     absl::FunctionRef<absl::Status(const CallRecord&)> body) {
  const Stopwatch stopwatch;
  call.sequence = last_call_.sequence + 1;
  SetAgreement(call, sizes);
  last_call_ = call;
  LONGSPAN_RETURN_IF_ERROR(group_.Enter(rank_, call));
  LONGSPAN_RETURN_IF_ERROR(body(call));
  group_.Leave(rank_, call);
  AddToStats(stats_, call.name, 1, bytes_sent, stopwatch.Seconds());
  return absl::OkStatus();
}

absl::Status ThreadCommunicator::Barrier(std::string_view name) {
  return RunMeeting({.operation = "Barrier", .name = name}, {}, 0, nullptr, [](auto) {});
}

absl::Status ThreadCommunicator::Broadcast(std::string_view name, void* data, int64_t bytes,
                                           int root) {
  LONGSPAN_RETURN_IF_ERROR(CheckRoot(name, root, size()));
  LONGSPAN_RETURN_IF_ERROR(CheckSize(name, bytes));
  return RunMeeting({.operation = "Broadcast", .name = name, .bytes = bytes, .peer = root},
                    {bytes, root}, rank_ == root ? bytes * others() : 0, data,
                    [&](absl::Span<const void* const> parts) {
                      if (rank_ != root) CopyBytes(data, parts[root], bytes);
                    });
}

absl::Status ThreadCommunicator::AllGather(std::string_view name, const void* send, void* receive,
                                           int64_t bytes_per_rank) {
  LONGSPAN_RETURN_IF_ERROR(CheckSize(name, bytes_per_rank));
  return RunMeeting({.operation = "AllGather", .name = name, .bytes = bytes_per_rank},
                    {bytes_per_rank}, bytes_per_rank * others(), send,
                    [&](absl::Span<const void* const> parts) {
                      char* to = static_cast<char*>(receive);
                      for (const void* part : parts) {
                        CopyBytes(to, part, bytes_per_rank);
                        to += bytes_per_rank;
                      }
                    });
}

absl::Status ThreadCommunicator::AllGatherV(std::string_view name, const void* send, void* receive,
                                            absl::Span<const int64_t> bytes) {
  LONGSPAN_RETURN_IF_ERROR(CheckSizes(name, bytes, size()));
  return RunMeeting({.operation = "AllGatherV", .name = name, .bytes = bytes[rank_]}, bytes,
                    bytes[rank_] * others(), send, [&](absl::Span<const void* const> parts) {
                      char* to = static_cast<char*>(receive);
                      for (int r = 0; r < size(); ++r) {
                        CopyBytes(to, parts[r], bytes[r]);
                        to += bytes[r];
                      }
                    });
}

absl::Status ThreadCommunicator::AllReduceMax(std::string_view name, float* data, int64_t count) {
  LONGSPAN_RETURN_IF_ERROR(CheckSize(name, count));
  const int64_t bytes = count * static_cast<int64_t>(sizeof(float));
  std::vector<float> result(count);
  LONGSPAN_RETURN_IF_ERROR(
      RunMeeting({.operation = "AllReduceMax", .name = name, .bytes = bytes}, {bytes},
                 bytes * others(), data, [&](absl::Span<const void* const> parts) {
                   for (int64_t i = 0; i < count; ++i) {
                     int32_t best = std::numeric_limits<int32_t>::min();
                     for (const void* part : parts) {
                       best = std::max(best, OrderedFromFloat(static_cast<const float*>(part)[i]));
                     }
                     result[i] = FloatFromOrdered(best);
                   }
                 }));
  CopyBytes(data, result.data(), bytes);
  return absl::OkStatus();
}

template <typename T>
absl::Status ThreadCommunicator::SumInRankOrder(std::string_view name, T* data, int64_t count) {
  LONGSPAN_RETURN_IF_ERROR(CheckSize(name, count));
  const int64_t bytes = count * static_cast<int64_t>(sizeof(T));
  std::vector<T> result(count);
  LONGSPAN_RETURN_IF_ERROR(RunMeeting({.operation = "AllReduceSum", .name = name, .bytes = bytes},
                                      {bytes}, bytes * others(), data,
                                      [&](absl::Span<const void* const> parts) {
                                        for (const void* part : parts) {
                                          const T* values = static_cast<const T*>(part);
                                          for (int64_t i = 0; i < count; ++i)
                                            result[i] += values[i];
                                        }
                                      }));
  CopyBytes(data, result.data(), bytes);
  return absl::OkStatus();
}

absl::StatusOr<ExchangeId> ThreadCommunicator::StartExchange(std::string_view name,
                                                             absl::Span<const Transfer> sends,
                                                             absl::Span<const Transfer> receives) {
  LONGSPAN_RETURN_IF_ERROR(CheckTransfers(name, sends, receives, rank_, size()));
  const int64_t bytes_sent = BytesToOthers(sends, rank_);
  CallRecord started;
  LONGSPAN_RETURN_IF_ERROR(Run({.operation = "Exchange", .name = name, .bytes = bytes_sent}, {},
                               bytes_sent, [&](const CallRecord& call) {
                                 started = call;
                                 for (const Transfer& send : sends) {
                                   if (send.bytes == 0) continue;
                                   const char* data = static_cast<const char*>(send.data);
                                   group_.Post(call.sequence, rank_, send.peer,
                                               std::vector<char>(data, data + send.bytes));
                                 }
                                 return absl::OkStatus();
                               }));
  const ExchangeId id{started.sequence};
  exchanges_[id] = {started, {receives.begin(), receives.end()}};
  return id;
}

absl::Status ThreadCommunicator::WaitExchange(ExchangeId exchange) {
  const Stopwatch stopwatch;
  auto node = exchanges_.extract(exchange);
  if (node.empty()) return UnknownExchangeError(exchange);
  CallRecord call = node.mapped().call;
  for (const Transfer& receive : node.mapped().receives) {
    if (receive.bytes == 0) continue;
    call.peer = receive.peer;
    auto message = group_.Take(rank_, call);
    if (!message.ok()) return message.status();
    const int64_t bytes = static_cast<int64_t>(message->size());
    if (bytes != receive.bytes) {
      const absl::Status error = WrongSizeError(call, bytes, receive.bytes);
      Abort(error);
      return error;
    }
    CopyBytes(receive.data, message->data(), bytes);
  }
  group_.Leave(rank_, call);
  AddToStats(stats_, call.name, 0, 0, stopwatch.Seconds());
  return absl::OkStatus();
}

absl::Status CallBody(Communicator& communicator,
                      absl::FunctionRef<absl::Status(Communicator&)> body) {
  try {
    return body(communicator);
  } catch (const std::exception& e) {
    return absl::InternalError(absl::StrCat("exception: ", e.what()));
  } catch (...) {
    return absl::InternalError("exception of an unknown type");
  }
}

}  // namespace

absl::Status RunThreadRanks(int ranks, absl::FunctionRef<absl::Status(Communicator&)> body,
                            const CommunicatorOptions& options) {
  if (ranks < 1) {
    return absl::InvalidArgumentError(absl::StrCat("cannot run ", ranks, " ranks"));
  }
  ThreadGroup group(ranks, options.timeout);
  auto run_rank = [&](int rank) {
    ThreadCommunicator communicator(group, rank);
    const absl::Status status = CallBody(communicator, body);
    if (!status.ok()) group.Fail(rank, status);
    group.Finish(rank, communicator.last_call());
  };
  std::vector<std::thread> threads;
  try {
    for (int rank = 1; rank < ranks; ++rank) threads.emplace_back(run_rank, rank);
    run_rank(0);
  } catch (const std::system_error& e) {
    group.Fail(0, absl::ResourceExhaustedError(absl::StrCat("cannot start a thread: ", e.what())));
  }
  for (std::thread& thread : threads) thread.join();
  return group.Result();
}

}  // namespace longspan
