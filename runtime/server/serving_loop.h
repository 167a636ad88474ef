#ifndef LONGSPAN_RUNTIME_SERVER_SERVING_LOOP_H_
#define LONGSPAN_RUNTIME_SERVER_SERVING_LOOP_H_

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/time/time.h"
#include "absl/types/span.h"
#include "runtime/engine.h"
#include "runtime/request.h"
#include "runtime/server/metrics.h"

namespace longspan {

// One sequence to generate, and who is told of it, by the engine's thread, which must not be made
// to wait.
struct Generation {
  std::shared_ptr<const Request> request;
  int64_t choice = 0;  // of the answers to the request
  std::function<void(RequestUpdate)> on_update;
  // Instead of an update that finishes: Cancelled (the server stops), DeadlineExceeded, or an error
  // of the engine. Not called after Cancel.
  std::function<void(const absl::Status&)> on_error;
};

// Between the threads that submit requests and the one that runs the engine.
class ServingLoop {
 public:
  struct Limits {
    int64_t max_num_seqs = 1;                        // the engine's
    int64_t max_waiting = 256;                       // generations that do not run yet
    absl::Duration timeout = absl::Hours(1);         // of a generation, from Submit on
    absl::Duration drain_limit = absl::Seconds(30);  // for what runs when the server stops
  };
  ServingLoop(const Limits& limits, Metrics* metrics) : limits_(limits), metrics_(metrics) {}

  // Any thread. Queues all of them, or none: InvalidArgument if they are more than ever run and
  // wait, ResourceExhausted if too many wait already, Unavailable if the server stops. `accepted`
  // is told what Cancel wants, before anyone is told of an update; the engine's thread waits for
  // it.
  absl::Status Submit(std::vector<Generation> generations,
                      absl::FunctionRef<void(std::vector<int64_t> ids)> accepted);
  // Any thread. Their cache is free with the next step. Unknown ids are ignored.
  void Cancel(absl::Span<const int64_t> ids);
  // Any thread. When a client that was refused may find a place.
  absl::Duration RetryAfter() const;

  // The engine's thread. Runs until `stop` and what runs then has ended, at most the drain limit
  // later. An error is one of the engine, and fatal for the job.
  absl::Status Run(Engine& engine, const std::function<bool()>& stop);
  bool accepting() const { return accepting_; }

 private:
  struct Queued {
    int64_t id;
    Generation generation;
    absl::Time submitted;
  };
  struct Running {
    int64_t id;
    Generation generation;
    absl::Time submitted;
    absl::Time last_token;
    int64_t tokens = 0;
    int64_t prefilled = 0;
  };

  // Takes no more, and ends what the engine has not seen.
  void RefuseQueued(const absl::Status& status);
  void TakeQueued(Engine& engine, bool may_wait);
  void Start(Engine& engine, Queued queued);
  void Take(RequestUpdate update);
  void EndLate(Engine& engine, absl::Time now);
  // Ends those for which `which` holds, with `status`.
  void End(Engine& engine, const absl::Status& status,
           const std::function<bool(const Running&)>& which);

  const Limits limits_;
  Metrics* const metrics_;
  std::atomic<bool> accepting_ = true;
  std::atomic<double> request_seconds_ = 1;  // moving average of how long one runs
  std::atomic<int64_t> outstanding_ = 0;     // submitted and not ended

  mutable std::mutex mutex_;
  std::condition_variable changed_;
  std::vector<Queued> queued_;      // guarded by mutex_
  std::vector<int64_t> cancelled_;  // guarded by mutex_
  int64_t next_id_ = 1;             // guarded by mutex_

  // The engine's thread alone.
  absl::flat_hash_map<int64_t, Running> running_;     // by the engine's id
  absl::flat_hash_map<int64_t, int64_t> engine_ids_;  // by this loop's id
};

}  // namespace longspan

#endif  // LONGSPAN_RUNTIME_SERVER_SERVING_LOOP_H_
