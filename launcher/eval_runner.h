#ifndef LONGSPAN_LAUNCHER_EVAL_RUNNER_H_
#define LONGSPAN_LAUNCHER_EVAL_RUNNER_H_

#include <cstdint>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/types/span.h"
#include "eval/eval_case.h"
#include "eval/result_store.h"
#include "launcher/progress.h"
#include "runtime/engine.h"

namespace longspan {

struct PendingCase {
  const CaseSource* source = nullptr;
  CaseId id;
};

// A method on its loaded model.
struct MethodRun {
  std::string method;
  Engine& engine;
  int64_t ranks = 1;
  // Gets what was selected, by length, as SelectionStats tells it; null: it is not counted.
  nlohmann::ordered_json* selections = nullptr;
};

// How far an evaluation is, over all its methods.
class EvalProgress {
 public:
  // `pending`: cases of each method that are still to be run.
  EvalProgress(ProgressStyle style, absl::Span<const std::vector<PendingCase>> pending);

  // Prompt tokens of a step, generated tokens, and cases that have ended with it.
  void Add(int64_t prompt_tokens, int64_t generated_tokens, int64_t cases);
  void Clear() { progress_.Clear(); }

 private:
  Progress progress_;
  ProgressState state_;
  double work_ = 0;  // prompt tokens
};

// Runs the cases of one method, one length after the other, each as a continuous batch whose cases
// are made when a place for them is free, and adds what they come to and cost to the store. An
// error is fatal for the job. `refusal` is anything else that ends the run early: a signal, or a
// case that cannot be made.
absl::Status RunCases(std::vector<PendingCase> cases, const MethodRun& run, ResultStore* store,
                      EvalProgress* progress, absl::Status* refusal);

}  // namespace longspan

#endif  // LONGSPAN_LAUNCHER_EVAL_RUNNER_H_
