#ifndef LONGSPAN_LAUNCHER_EVAL_PLAN_H_
#define LONGSPAN_LAUNCHER_EVAL_PLAN_H_

#include <cstdint>
#include <deque>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "eval/eval_case.h"
#include "eval/haystack.h"
#include "eval/prompt.h"
#include "eval/result_store.h"
#include "launcher/eval_options.h"
#include "launcher/eval_runner.h"
#include "runtime/config.h"
#include "runtime/engine.h"
#include "runtime/model_config.h"
#include "runtime/tokenizer.h"

namespace longspan {

// Rank 0's side of an evaluation: what is to be run, and where results go.
class EvalPlan {
 public:
  explicit EvalPlan(const EvalOptions& options) : options_(options) {}

  // What can be told before anything is loaded. False: all cases have been run.
  absl::StatusOr<bool> Prepare(const Config& config);

  // Indices into EvalOptions::methods of those with cases that are still to be run.
  std::vector<int64_t> PendingMethods() const;
  int64_t max_model_len() const { return max_model_len_; }
  int64_t trained_context() const { return model_.max_position_embeddings; }

  // Runs a method's cases and shuts the engine down. If the engine fails, the report is written
  // before this returns.
  absl::Status RunMethod(int64_t method, int64_t ranks, Engine& engine, absl::Status* refusal);
  // Writes what there is, and prints its table.
  absl::Status Report();

 private:
  absl::Status OpenSources(const Config& config);
  // That all prompts hold their facts, and fit with their answers.
  absl::Status CheckLengths(const Config& config);
  // The method's config.
  absl::StatusOr<Config> CheckMethod(const Config& config, const EvalMethod& method) const;
  absl::Status OpenStore(const Config& config);

  const EvalOptions& options_;
  std::unique_ptr<Tokenizer> tokenizer_;
  std::optional<Haystack> haystack_;
  std::optional<PromptMaterial> material_;
  std::deque<CaseSource> sources_;
  ModelConfig model_;
  int64_t max_model_len_ = 0;
  std::unique_ptr<ResultStore> store_;
  std::vector<std::vector<PendingCase>> pending_;  // [methods]
  std::optional<EvalProgress> progress_;
  nlohmann::ordered_json selections_;  // by method and length
};

}  // namespace longspan

#endif  // LONGSPAN_LAUNCHER_EVAL_PLAN_H_
