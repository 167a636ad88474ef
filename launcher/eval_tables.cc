#include "launcher/eval_tables.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "launcher/report_page.h"

namespace longspan {
namespace {

constexpr size_t kMostColumns = 5;  // that a page in print has room for

struct Entry {
  std::string title, method;
  int64_t length = 0;
  TableCell cell;
};

// One table a title, of all its lengths.
std::vector<MethodTable> WholeTables(const std::vector<Entry>& entries) {
  std::vector<MethodTable> tables;
  for (const Entry& entry : entries) {
    auto table = std::find_if(tables.begin(), tables.end(),
                              [&](const MethodTable& other) { return other.title == entry.title; });
    if (table == tables.end()) table = tables.insert(table, MethodTable{entry.title});
    table->lengths.push_back(entry.length);
    if (std::find(table->methods.begin(), table->methods.end(), entry.method) ==
        table->methods.end()) {
      table->methods.push_back(entry.method);
    }
  }
  for (MethodTable& table : tables) {
    std::sort(table.lengths.begin(), table.lengths.end());
    table.lengths.erase(std::unique(table.lengths.begin(), table.lengths.end()),
                        table.lengths.end());
    table.cells.assign(table.methods.size(), std::vector<TableCell>(table.lengths.size()));
    for (const Entry& entry : entries) {
      if (entry.title != table.title) continue;
      const auto row = std::find(table.methods.begin(), table.methods.end(), entry.method);
      const auto column =
          std::lower_bound(table.lengths.begin(), table.lengths.end(), entry.length);
      table.cells[row - table.methods.begin()][column - table.lengths.begin()] = entry.cell;
    }
  }
  return tables;
}

// Columns cut into tables as equal as can be.
std::vector<MethodTable> Tables(const std::vector<Entry>& entries) {
  std::vector<MethodTable> narrow;
  for (const MethodTable& table : WholeTables(entries)) {
    const size_t columns = table.lengths.size();
    const size_t parts = (columns + kMostColumns - 1) / kMostColumns;
    for (size_t part = 0; part < parts; ++part) {
      const auto begin = static_cast<int64_t>(columns * part / parts);
      const auto end = static_cast<int64_t>(columns * (part + 1) / parts);
      MethodTable& cut = narrow.emplace_back(MethodTable{table.title});
      cut.methods = table.methods;
      cut.lengths.assign(table.lengths.begin() + begin, table.lengths.begin() + end);
      for (const std::vector<TableCell>& row : table.cells) {
        cut.cells.emplace_back(row.begin() + begin, row.begin() + end);
      }
    }
  }
  return narrow;
}

template <typename Text>
std::vector<MethodTable> CostTables(absl::Span<const EvalCost> costs, absl::string_view title,
                                    Text text) {
  std::vector<Entry> entries;
  for (const EvalCost& cost : AddedUp(costs)) {
    entries.push_back({std::string(title), cost.method, cost.length, {text(cost)}});
  }
  return Tables(entries);
}

}  // namespace

std::vector<MethodTable> ScoreTables(absl::Span<const EvalCell> cells_by_length) {
  std::vector<Entry> entries;
  for (const EvalCell& cell : cells_by_length) {
    const absl::string_view unit = cell.metric == EvalMetric::kShare ? "" : ", perplexity";
    entries.push_back({absl::StrCat(cell.task, unit),
                       cell.method,
                       cell.length,
                       {ScoreText(cell), absl::StrCat(IntervalText(cell), ", n ", cell.cases)}});
  }
  return Tables(entries);
}

std::vector<MethodTable> AttendedTables(absl::Span<const EvalCost> costs) {
  return CostTables(costs, "attended to", [](const EvalCost& cost) {
    return absl::StrFormat("%.2f%%", 100 * cost.attended_share());
  });
}

std::vector<MethodTable> SpeedTables(absl::Span<const EvalCost> costs) {
  return CostTables(costs, "prompt tokens a second", [](const EvalCost& cost) {
    return Grouped(
        std::llround(static_cast<double>(cost.prompt_tokens) / std::max(cost.seconds, 1e-9)));
  });
}

}  // namespace longspan
