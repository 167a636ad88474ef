#ifndef LONGSPAN_EVAL_RESULTS_H_
#define LONGSPAN_EVAL_RESULTS_H_

#include <cstdint>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "eval/eval_case.h"
#include "eval/interval.h"

namespace longspan {

// What one case came to.
struct EvalResult {
  std::string task, method;
  CaseId id;
  std::string question, answer;
  std::vector<std::string> expected;
  EvalMetric metric = EvalMetric::kShare;
  double score = 0;  // in the metric's unit; nats may be infinite or NaN
  int64_t prompt_tokens = 0;
  int64_t answer_tokens = 0;
  // Where the prompt is scored: how many of its tokens, its last, and the mean of -log p, in nats,
  // of equal parts of them in order.
  int64_t scored_tokens = 0;
  std::vector<double> nats_by_part;
};

nlohmann::ordered_json ToJson(const EvalResult& result);
// InvalidArgument: not what ToJson makes, and what is wrong.
absl::StatusOr<EvalResult> ParseEvalResult(const nlohmann::json& json);

// What cases of one method and length cost, that ran one after the other.
struct EvalCost {
  std::string method;
  int64_t length = 0;
  int64_t cases = 0;
  int64_t prompt_tokens = 0, generated_tokens = 0;
  double seconds = 0;  // of the engine's steps
  int64_t ranks = 0;
  // Over queries and layers; and what dense attention would have attended to.
  int64_t attended_keys = 0, dense_keys = 0;

  double attended_share() const {
    return static_cast<double>(attended_keys) / static_cast<double>(dense_keys);
  }
};

nlohmann::ordered_json ToJson(const EvalCost& cost);
absl::StatusOr<EvalCost> ParseEvalCost(const nlohmann::json& json);
// One for each method and length, in order of their coming; ranks are those of the last.
std::vector<EvalCost> AddedUp(absl::Span<const EvalCost> costs);

// Cases of one task, method and length together, at one depth or over all.
struct EvalCell {
  std::string task, method;
  int64_t length = 0;
  std::optional<double> depth;  // unset: over all, or not swept
  EvalMetric metric = EvalMetric::kShare;
  int64_t cases = 0;
  double score = 0;   // mean, as EvalResult's
  Interval interval;  // 95%; unbounded where one number says nothing
  int64_t scored_tokens = 0;
  std::vector<double> nats_by_part;
};

// In order of task and method as they first come, and of length and depth.
std::vector<EvalCell> CellsByLength(absl::Span<const EvalResult> results);
std::vector<EvalCell> CellsByDepth(absl::Span<const EvalResult> results);

// A share as "84.0%", nats as perplexity, with their interval.
std::string ScoreText(const EvalCell& cell);
std::string IntervalText(const EvalCell& cell);

// An evaluation as it is on disk.
struct EvalData {
  // Objects `settings`, which answers depend on, with the `cases_of_a_method` that there are to be;
  // `methods`, each with its settings; and `about`, for people.
  nlohmann::ordered_json description;
  std::vector<EvalResult> results;  // in order of their coming
  std::vector<EvalCost> costs;

  int64_t expected_cases() const;
};

// The description, with all cells and costs.
nlohmann::ordered_json SummaryJson(const EvalData& data);

}  // namespace longspan

#endif  // LONGSPAN_EVAL_RESULTS_H_
