#ifndef LONGSPAN_LAUNCHER_EVAL_REPORT_H_
#define LONGSPAN_LAUNCHER_EVAL_REPORT_H_

#include <nlohmann/json.hpp>
#include <string>

#include "absl/status/status.h"
#include "absl/types/span.h"
#include "eval/results.h"

namespace longspan {

// Scores by task, length and method, for a terminal.
std::string EvalTable(absl::Span<const EvalResult> results);

// One page that needs nothing else: heat maps, curves and tables.
std::string EvalHtml(const nlohmann::ordered_json& settings, absl::Span<const EvalResult> results);

// Replaces DIR/summary.json and DIR/report.html.
absl::Status WriteEvalReport(const nlohmann::ordered_json& settings,
                             absl::Span<const EvalResult> results, const std::string& directory);

}  // namespace longspan

#endif  // LONGSPAN_LAUNCHER_EVAL_REPORT_H_
