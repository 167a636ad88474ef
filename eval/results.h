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
  double score = 0;  // 0 to 1, or, where the prompt is scored, nats
  int64_t prompt_tokens = 0;
  int64_t answer_tokens = 0;
  // Where the prompt is scored: the mean of -log p, in nats, of equal parts of it in order.
  std::vector<double> nats_by_part;
};

nlohmann::ordered_json ToJson(const EvalResult& result);
// InvalidArgument: not what ToJson makes, and what is wrong.
absl::StatusOr<EvalResult> ParseEvalResult(const nlohmann::json& json);

// Cases of one task, method and length together, at one depth or over all.
struct EvalCell {
  std::string task, method;
  int64_t length = 0;
  std::optional<double> depth;  // unset: over all, or not swept
  EvalMetric metric = EvalMetric::kShare;
  int64_t cases = 0;
  double score = 0;   // mean, as EvalResult's
  Interval interval;  // 95%; unbounded where one number says nothing
  std::vector<double> nats_by_part;
};

// In order of task and method as they first come, and of length and depth.
std::vector<EvalCell> CellsByLength(absl::Span<const EvalResult> results);
std::vector<EvalCell> CellsByDepth(absl::Span<const EvalResult> results);

// A share as "84.0%", nats as "ppl 12.31", with their interval.
std::string ScoreText(const EvalCell& cell);
std::string IntervalText(const EvalCell& cell);

// `settings` with all cells.
nlohmann::ordered_json SummaryJson(const nlohmann::ordered_json& settings,
                                   absl::Span<const EvalResult> results);

}  // namespace longspan

#endif  // LONGSPAN_EVAL_RESULTS_H_
