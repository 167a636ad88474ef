#ifndef LONGSPAN_LAUNCHER_ENGINE_RUNS_H_
#define LONGSPAN_LAUNCHER_ENGINE_RUNS_H_

#include <cstdint>
#include <map>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "launcher/progress.h"
#include "runtime/engine.h"
#include "runtime/request.h"

namespace longspan {

using Prompts = std::vector<std::vector<int32_t>>;

// `count` prompts of `tokens` random ids each, the first drawn with `seed`, the next with seed + 1.
Prompts RandomPrompts(uint64_t seed, int64_t count, int64_t tokens, int64_t vocab);

// Prompts that run together, each followed by its likeliest tokens.
struct EngineRun {
  Prompts prompts;           // of one length
  int64_t steps = 0;         // decoded tokens that are timed; 0: nothing is decoded
  int64_t logprobs = 0;      // generated tokens before those whose log-probabilities are kept
  int64_t top_logprobs = 0;  // of each, with so many alternatives
};

// Tokens that one of the prompts gets at most.
int64_t GeneratedTokens(int64_t prompts, int64_t steps, int64_t logprobs);

struct RunTimes {
  double seconds = 0;                   // of all steps
  std::vector<double> chunks;           // of each chunk of a prompt, without what decoded beside it
  std::vector<double> first_tokens;     // [prompts] from the start to the first generated token
  std::vector<double> decodes;          // [steps] that only decode, and every sequence
  std::vector<Completion> completions;  // [prompts] if something is decoded
};

// Runs prompts through an engine as generate does, with a bar of progress. On rank 0.
class EngineRuns {
 public:
  // `work`: tokens, of prompts and generated, of all runs; `prompts`: of all runs.
  EngineRuns(Engine& engine, ProgressStyle progress, double work, int64_t prompts);

  // An error is fatal for the job. Anything else that ends a run early is in refusal(): a signal, a
  // cache that is too small, a request that the engine does not take. No further run then begins.
  absl::StatusOr<RunTimes> Run(const EngineRun& run);
  const absl::Status& refusal() const { return refusal_; }

 private:
  bool goes_on();
  void Submit(const EngineRun& run);
  absl::Status TimedStep(RunTimes* times);

  Engine& engine_;
  Progress progress_;
  ProgressState state_;
  double work_;
  absl::Status refusal_;

  // Of the present run.
  std::map<int64_t, size_t> index_;         // of each request among the prompts
  std::map<int64_t, int64_t> tokens_done_;  // of the prompt of each request
  size_t prefilled_ = 0;                    // requests
};

}  // namespace longspan

#endif  // LONGSPAN_LAUNCHER_ENGINE_RUNS_H_
