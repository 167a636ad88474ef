#include "launcher/eval_report.h"

#include <algorithm>
#include <map>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "kernels/base/status_macros.h"
#include "launcher/eval_figures.h"
#include "launcher/report_page.h"
#include "launcher/svg.h"
#include "runtime/new_file.h"

namespace longspan {
namespace {

// Beside that of all reports. Figures on a map's cells stay dark where the page is.
constexpr absl::string_view kStyle = R"(
svg rect+.ink{fill:#20252b}figure{max-width:380px}
@media (max-width:480px){th,td{padding:4px}td .soft{display:inline-block;max-width:7.5em;white-space:normal}}
@media print{table{font-size:9pt}td,th{padding:2px 6px}}
)";

// Cells of one task and length, by method.
struct Row {
  std::string task;
  int64_t length = 0;
  std::map<std::string, const EvalCell*> cells;
};

struct Table {
  std::vector<std::string> methods;  // in order of their coming
  std::vector<Row> rows;
};

Table TableOf(const std::vector<EvalCell>& cells) {
  Table table;
  for (const EvalCell& cell : cells) {
    if (std::find(table.methods.begin(), table.methods.end(), cell.method) == table.methods.end()) {
      table.methods.push_back(cell.method);
    }
    auto row = std::find_if(table.rows.begin(), table.rows.end(), [&](const Row& other) {
      return other.task == cell.task && other.length == cell.length;
    });
    if (row == table.rows.end()) row = table.rows.insert(row, {cell.task, cell.length});
    row->cells[cell.method] = &cell;
  }
  std::stable_sort(table.rows.begin(), table.rows.end(), [](const Row& a, const Row& b) {
    return a.task == b.task && a.length < b.length;
  });
  return table;
}

std::string TableHtml(const Table& table) {
  std::string text = "<div class=\"wide\"><table><thead><tr>";
  absl::StrAppend(&text, Element("th", "", "task"), Element("th", "", "tokens"));
  for (const std::string& method : table.methods) text += Element("th", "", method);
  text += "</tr></thead><tbody>\n";
  for (const Row& row : table.rows) {
    absl::StrAppend(&text, "<tr>", Element("td", "", row.task),
                    Element("td", "", Grouped(row.length)));
    for (const std::string& method : table.methods) {
      const auto cell = row.cells.find(method);
      if (cell == row.cells.end()) {
        text += Element("td", "", "–");
        continue;
      }
      absl::StrAppend(
          &text, "<td>", Element("b", "", ScoreText(*cell->second)), "<br>",
          Element("span", "soft",
                  absl::StrCat(IntervalText(*cell->second), ", n ", cell->second->cases)),
          "</td>");
    }
    text += "</tr>\n";
  }
  return text + "</tbody></table></div>\n";
}

// A JSON value as a person would write it.
std::string SettingText(const nlohmann::ordered_json& value) {
  if (value.is_string()) {
    return absl::StrJoin(absl::StrSplit(value.get<std::string>(), '\n', absl::SkipEmpty()), "; ");
  }
  if (!value.is_array()) return value.dump();
  std::vector<std::string> parts;
  for (const nlohmann::ordered_json& part : value) parts.push_back(SettingText(part));
  return absl::StrJoin(parts, ", ");
}

std::string Description(const nlohmann::ordered_json& settings) {
  std::vector<std::pair<std::string, std::string>> terms;
  for (const auto& [key, value] : settings.items()) {
    const std::string text = SettingText(value);
    if (key == "files" || (key == "prompts" && text.empty())) continue;
    if (key == "needles" || key == "asked") {
      terms.emplace_back(key, text == "0" ? "each task's own number" : text);
    } else {
      terms.emplace_back(key, text.empty() ? "generated" : text);
    }
  }
  return Terms(terms);
}

std::string FigureSection(absl::string_view title, absl::string_view explanation,
                          const std::vector<std::string>& figures) {
  if (figures.empty()) return "";
  return absl::StrCat(Element("h2", "", title), "\n", Paragraph("soft", explanation),
                      Figures(figures));
}

}  // namespace

std::string EvalTable(absl::Span<const EvalResult> results) {
  const std::vector<EvalCell> cells = CellsByLength(results);
  size_t width = 4;
  for (const EvalCell& cell : cells) width = std::max(width, cell.task.size());
  std::string text = absl::StrFormat("%-*s %9s  %-14s %5s %9s  %s\n", static_cast<int>(width),
                                     "task", "tokens", "method", "cases", "score", "95% interval");
  for (const EvalCell& cell : cells) {
    absl::StrAppendFormat(&text, "%-*s %9d  %-14s %5d %9s  %s\n", static_cast<int>(width),
                          cell.task, cell.length, cell.method, cell.cases, ScoreText(cell),
                          IntervalText(cell));
  }
  return text;
}

std::string EvalHtml(const nlohmann::ordered_json& settings, absl::Span<const EvalResult> results) {
  const std::vector<EvalCell> cells = CellsByLength(results);
  return absl::StrCat(
      PageHead("longspan: evaluation"), "<body>\n<style>", kStyle,
      "</style>\n<h1>Evaluation</h1>\n", Description(settings), "<h2>Scores</h2>\n",
      Paragraph("soft",
                "The mean over all cases, and over all depths; below it the 95% interval "
                "(Wilson's; of perplexity Student's) and the number of cases."),
      TableHtml(TableOf(cells)),
      FigureSection("By length", "Bars are 95% intervals.", LengthCurves(cells)),
      FigureSection("By depth",
                    "Scores in percent by where in the prompt the fact is that is asked for: 0 "
                    "is its beginning. Orange is 0, blue 100.",
                    HeatMaps(CellsByDepth(results))),
      FigureSection("Perplexity by position", "Each point is a 32nd part of the prompt.",
                    PositionCurves(cells)),
      "</body></html>\n");
}

absl::Status WriteEvalReport(const nlohmann::ordered_json& settings,
                             absl::Span<const EvalResult> results, const std::string& directory) {
  for (const auto& [name, text] :
       {std::pair{"/summary.json", SummaryJson(settings, results).dump(2) + "\n"},
        std::pair{"/report.html", EvalHtml(settings, results)}}) {
    LONGSPAN_ASSIGN_OR_RETURN(NewFile file, NewFile::Create(directory + name));
    LONGSPAN_RETURN_IF_ERROR(file.Write(text));
    LONGSPAN_RETURN_IF_ERROR(file.Commit());
  }
  return absl::OkStatus();
}

}  // namespace longspan
