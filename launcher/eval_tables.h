#ifndef LONGSPAN_LAUNCHER_EVAL_TABLES_H_
#define LONGSPAN_LAUNCHER_EVAL_TABLES_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/types/span.h"
#include "eval/results.h"

namespace longspan {

// A number, and what is known of it, if anything; empty where nothing was run.
using TableCell = std::vector<std::string>;

// Methods down, some lengths across.
struct MethodTable {
  std::string title;                          // a task
  std::vector<int64_t> lengths;               // ascending
  std::vector<std::string> methods;           // in order of their coming
  std::vector<std::vector<TableCell>> cells;  // [methods][lengths]
};

// Scores with their intervals and numbers of cases: a table a task, or several where there are more
// lengths than a page has room for.
std::vector<MethodTable> ScoreTables(absl::Span<const EvalCell> cells_by_length);

// How much methods attended to, in percent of what dense attention does, and their speed in prompt
// tokens a second, answers included.
std::vector<MethodTable> AttendedTables(absl::Span<const EvalCost> costs);
std::vector<MethodTable> SpeedTables(absl::Span<const EvalCost> costs);

}  // namespace longspan

#endif  // LONGSPAN_LAUNCHER_EVAL_TABLES_H_
