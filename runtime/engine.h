#ifndef LONGSPAN_RUNTIME_ENGINE_H_
#define LONGSPAN_RUNTIME_ENGINE_H_

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "collectives/communicator.h"
#include "runtime/config.h"
#include "runtime/memory_plan.h"
#include "runtime/phases.h"
#include "runtime/rank_stats.h"
#include "runtime/request.h"
#include "runtime/selection_stats.h"
#include "runtime/tokenizer.h"

namespace longspan {

// What happened to one request in one Engine::Step.
struct RequestUpdate {
  int64_t request = 0;    // as Submit returned it
  int64_t prefilled = 0;  // prompt tokens in the cache
  int64_t prompt_tokens = 0;
  int64_t cached_tokens = 0;  // of them: those that an earlier request had left there
  std::string text;           // newly decoded text, safe to print: whole characters, no stop string
  // What the step generated, if anything but an end of the sequence; `text` may lag behind.
  std::optional<int32_t> token;
  std::optional<TokenLogprobs> logprobs;  // of it, when asked for
  bool finished = false;
  Completion completion;  // when finished
};

struct EngineStats {
  int64_t prompt_tokens = 0;  // prefilled
  int64_t generated_tokens = 0;
  int64_t decoded_tokens = 0;              // of them; a request's first token comes with its prompt
  double prefill_s = 0;                    // wall time of steps' prefill part
  double decode_s = 0;                     // wall time of steps' decode part
  int64_t attended_keys = 0;               // over queries and layers, of this job
  int64_t dense_keys = 0;                  // what dense attention would have attended to
  std::vector<int64_t> peak_memory_bytes;  // [ranks] resident set
  int64_t prefix_query_tokens = 0;         // prompt tokens looked up in the prefix cache
  int64_t prefix_hit_tokens = 0;           // of them: found
};

// How busy the engine is.
struct EngineLoad {
  int64_t running = 0;  // requests
  int64_t waiting = 0;
  // Of rank 0's cache. A new request can have total_pages - used_pages + evictable_pages.
  int64_t used_pages = 0;       // of running requests, to their whole lengths, and the prefix cache
  int64_t cached_pages = 0;     // of them: in the prefix cache, whether requests share them or not
  int64_t evictable_pages = 0;  // of these: those that no running request keeps
  int64_t total_pages = 0;
};

// The engine of one rank. Rank 0 schedules: it turns requests into steps and broadcasts each step;
// every rank runs it (docs/ARCHITECTURE.md, "The way of a token"). All ranks create the engine;
// then rank 0 calls Submit and Step, and Shutdown at the end, while the others sit in RunWorker.
class Engine {
 public:
  // Loads the model. Refuses a cache that does not fit, before loading weights, saying how many
  // bytes a rank needs and has. Collective: every rank returns the same error.
  static absl::StatusOr<std::unique_ptr<Engine>> Create(const Config& config,
                                                        Communicator* communicator);
  virtual ~Engine() = default;

  virtual const Config& config() const = 0;
  virtual const Tokenizer& tokenizer() const = 0;
  virtual int64_t vocab_size() const = 0;

  // InvalidArgument if the request can never run: too long, token ids out of range, no prompt. Any
  // thread of rank 0.
  virtual absl::Status Check(const Request& request) const = 0;
  // Rank 0. Queues a request that passes Check. At most config().max_num_seqs run at once; others
  // wait in order.
  absl::StatusOr<int64_t> Submit(Request request) {
    return SubmitChoice(std::make_shared<const Request>(std::move(request)), 0);
  }
  // The same for one of several answers to a request, which share it. Each choice, numbered from 0,
  // is drawn with the request's seed plus its number.
  virtual absl::StatusOr<int64_t> SubmitChoice(std::shared_ptr<const Request> request,
                                               int64_t choice) = 0;
  // Rank 0. Gives up a request wherever it stands: no further update tells of it, and its place and
  // cache are free with the next step. Ids that are unknown or finished are ignored.
  virtual void Cancel(int64_t request) = 0;
  // Rank 0. True while a submitted request is unfinished, or ranks still hold cache of an ended
  // one: a step frees it, even with nothing else to do.
  virtual bool HasWork() const = 0;
  // Rank 0. Requests waiting for a place among the running ones.
  virtual int64_t num_waiting() const = 0;
  // Rank 0. One step of the continuous batch: at most one prefill chunk, and one token of every
  // sequence that is decoding. An error is fatal for the job.
  virtual absl::StatusOr<std::vector<RequestUpdate>> Step() = 0;
  // Rank 0. Both are cheap, and as of the last step.
  virtual EngineLoad load() const = 0;
  virtual const EngineStats& stats() const = 0;  // so far; without peak_memory_bytes
  // Rank 0. Of each rank, as of a step at most a second before the last; empty before the first.
  virtual const std::vector<RankStats>& rank_stats() const = 0;
  // Rank 0, between steps. What each rank has spent its steps' time on since the last call. The
  // first call only begins to count, so that nothing is spent on it unless somebody asks. GPUs
  // count some of the decode steps.
  virtual absl::StatusOr<std::vector<RankPhases>> TakePhases() = 0;
  // Of this rank. A sequence of n tokens also takes the pages of its stripes.
  virtual const MemoryPlan& memory_plan() const = 0;
  // Rank 0. Ends RunWorker on the other ranks and gathers statistics.
  virtual absl::StatusOr<EngineStats> Shutdown() = 0;

  // Other ranks. Executes rank 0's steps until Shutdown.
  virtual absl::Status RunWorker() = 0;

  // Rank 0. From the next step on all selections are counted, anew if some were before. On CPUs one
  // decoded token of kTokensPerRecall (selection_counter.h) is also scored exactly; GPUs decode
  // without graphs meanwhile.
  virtual void CountSelections() = 0;
  // Rank 0. Null before CountSelections.
  virtual const SelectionStats* selection_stats() const = 0;
};

}  // namespace longspan

#endif  // LONGSPAN_RUNTIME_ENGINE_H_
