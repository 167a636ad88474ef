#ifndef LONGSPAN_LAUNCHER_EVAL_REPORT_H_
#define LONGSPAN_LAUNCHER_EVAL_REPORT_H_

#include <string>

#include "absl/status/status.h"
#include "eval/results.h"

namespace longspan {

// Scores by task, length and method, and what each method costs, for a terminal.
std::string EvalTable(const EvalData& data);

// The same as tables of Markdown, a task each: methods down, lengths across.
std::string EvalMarkdown(const EvalData& data);

// One page that needs nothing else: heat maps, curves and tables.
std::string EvalHtml(const EvalData& data);

// Replaces DIR/summary.json and DIR/report.html.
absl::Status WriteEvalReport(const EvalData& data, const std::string& directory);

}  // namespace longspan

#endif  // LONGSPAN_LAUNCHER_EVAL_REPORT_H_
