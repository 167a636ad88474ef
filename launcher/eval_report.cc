#include "launcher/eval_report.h"

#include <algorithm>
#include <map>
#include <utility>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "kernels/base/status_macros.h"
#include "launcher/eval_figures.h"
#include "launcher/eval_tables.h"
#include "launcher/report_page.h"
#include "runtime/answer_json.h"
#include "runtime/new_file.h"

namespace longspan {
namespace {

// Beside that of all reports.
constexpr absl::string_view kStyle = R"(
figure{max-width:380px}.tables{display:flex;flex-wrap:wrap;gap:16px 40px;margin-bottom:16px}
.tables>.wide{max-width:100%}.tables td:first-child,.tables th:first-child{position:sticky;left:0;background:var(--page)}
@media (max-width:480px){th,td{padding:4px}}
@media print{table{font-size:8pt}td,th{padding:2px 6px}}
)";

std::string TableHtml(const MethodTable& table) {
  std::string text = "<div class=\"wide\"><table><thead><tr>";
  text += Element("th", "", table.title);
  for (const int64_t length : table.lengths) text += Element("th", "", Grouped(length));
  text += "</tr></thead><tbody>\n";
  for (size_t m = 0; m < table.methods.size(); ++m) {
    absl::StrAppend(&text, "<tr>", Element("td", "", table.methods[m]));
    for (const TableCell& cell : table.cells[m]) {
      absl::StrAppend(&text, "<td>", Element("b", "", cell.empty() ? "–" : cell[0]));
      if (cell.size() > 1) absl::StrAppend(&text, "<br>", Element("span", "soft", cell[1]));
      text += "</td>";
    }
    text += "</tr>\n";
  }
  return text + "</tbody></table></div>\n";
}

std::string TablesHtml(const std::vector<MethodTable>& tables) {
  std::string text = "<div class=\"tables\">\n";
  for (const MethodTable& table : tables) text += TableHtml(table);
  return text + "</div>\n";
}

std::string TableMarkdown(const MethodTable& table) {
  std::string text = absl::StrCat("| ", table.title, " |");
  for (const int64_t length : table.lengths) absl::StrAppend(&text, " ", Grouped(length), " |");
  absl::StrAppend(&text, "\n|---|");
  for (size_t i = 0; i < table.lengths.size(); ++i) text += "---|";
  for (size_t m = 0; m < table.methods.size(); ++m) {
    absl::StrAppend(&text, "\n| `", table.methods[m], "` |");
    for (const TableCell& cell : table.cells[m]) {
      absl::StrAppend(&text, " ", cell.empty() ? "not run" : cell[0],
                      cell.size() > 1 ? absl::StrCat(" (", cell[1], ")") : "", " |");
    }
  }
  return text + "\n\n";
}

// Empty: all cases have been run.
std::string Incompleteness(const EvalData& data) {
  const int64_t expected = data.expected_cases();
  const auto there = static_cast<int64_t>(data.results.size());
  if (there >= expected) return "";
  return absl::StrCat("Incomplete: ", Grouped(there), " of ", Grouped(expected),
                      " cases have been run. The same command goes on.");
}

// A JSON value as a person would write it.
std::string SettingText(const nlohmann::ordered_json& value) {
  if (value.is_string()) {
    const std::string text = value;
    return absl::StrContains(text, '\n') ? value.dump() : text;
  }
  if (!value.is_array()) return value.dump();
  std::vector<std::string> parts;
  for (const nlohmann::ordered_json& part : value) parts.push_back(SettingText(part));
  return absl::StrJoin(parts, ", ");
}

// What a person wants to know of an evaluation; all of it is in summary.json.
std::string Description(const EvalData& data) {
  const nlohmann::ordered_json& settings = data.description.at("settings");
  const nlohmann::ordered_json& about = data.description.at("about");
  std::vector<std::pair<std::string, std::string>> terms = {
      {"model", SettingText(about.value("model", ""))}};
  for (const auto& [key, value] : settings.items()) {
    // Checksums, and what is in no way special.
    if (value.is_object() || key == "haystack" || key == "prompts" || key == "cases_of_a_method") {
      continue;
    }
    const bool is_own = key == "needles" || key == "asked" || key == "stride";
    if (value == false || value == "auto" || value == "" || (is_own && value == 0)) continue;
    terms.emplace_back(key, SettingText(value));
  }
  const std::string haystack = about.value("haystack", ""), prompts = about.value("prompts", "");
  terms.emplace_back("haystack", haystack.empty() ? "generated" : haystack);
  if (!prompts.empty()) terms.emplace_back("prompts", prompts);
  return Terms(terms);
}

std::string MethodsHtml(const nlohmann::ordered_json& methods) {
  std::vector<std::pair<std::string, std::string>> terms;
  for (const auto& [name, settings] : methods.items()) {
    std::vector<std::string> parts;
    for (const auto& [key, value] : settings.items()) {
      if (key == "attends_to") {
        parts.push_back(SettingText(value));
      } else if (key != "compressor") {
        parts.push_back(absl::StrCat(key, " ", SettingText(value)));
      }
    }
    terms.emplace_back(name, absl::StrJoin(parts, "; "));
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

std::string EvalTable(const EvalData& data) {
  const std::vector<EvalCell> cells = CellsByLength(data.results);
  size_t width = 4;
  for (const EvalCell& cell : cells) width = std::max(width, cell.task.size());
  std::map<std::pair<std::string, int64_t>, std::string> attended;  // unknown after a crash
  for (const EvalCost& cost : AddedUp(data.costs)) {
    attended[{cost.method, cost.length}] = absl::StrFormat("%.2f%%", 100 * cost.attended_share());
  }
  std::string text =
      absl::StrFormat("%-*s %9s  %-14s %9s %5s %9s  %s\n", static_cast<int>(width), "task",
                      "tokens", "method", "attended", "cases", "score", "95% interval");
  for (const EvalCell& cell : cells) {
    absl::StrAppendFormat(&text, "%-*s %9d  %-14s %9s %5d %9s  %s\n", static_cast<int>(width),
                          cell.task, cell.length, cell.method, attended[{cell.method, cell.length}],
                          cell.cases, ScoreText(cell), IntervalText(cell));
  }
  if (const std::string note = Incompleteness(data); !note.empty()) {
    absl::StrAppend(&text, note, "\n");
  }
  return text;
}

std::string EvalMarkdown(const EvalData& data) {
  std::string text;
  for (const std::vector<MethodTable>& tables :
       {ScoreTables(CellsByLength(data.results)), AttendedTables(data.costs),
        SpeedTables(data.costs)}) {
    for (const MethodTable& table : tables) text += TableMarkdown(table);
  }
  if (const std::string note = Incompleteness(data); !note.empty()) {
    absl::StrAppend(&text, note, "\n");
  }
  return text;
}

std::string EvalHtml(const EvalData& data) {
  const std::vector<EvalCell> cells = CellsByLength(data.results);
  const std::string note = Incompleteness(data);
  return absl::StrCat(
      PageHead("longspan: evaluation"), "<body>\n<style>", kStyle,
      "</style>\n<h1>Evaluation</h1>\n", note.empty() ? "" : Paragraph("note", note),
      Description(data), "<h2>Scores</h2>\n",
      Paragraph("soft",
                "By tokens of the prompt: the mean over all cases, and over all depths; below it "
                "the 95% interval (Wilson's; of perplexity Student's) and the number of cases."),
      TablesHtml(ScoreTables(cells)),
      FigureSection("By length", "Bars are 95% intervals.", LengthCurves(cells)),
      FigureSection("By depth",
                    "Scores in percent by where in the prompt the fact is that is asked for: 0 "
                    "is its beginning.",
                    HeatMaps(CellsByDepth(data.results))),
      FigureSection("Perplexity by position",
                    "Each point is a 32nd part of the tokens that are scored.",
                    PositionCurves(cells)),
      "<h2>Methods</h2>\n", MethodsHtml(data.description.at("methods")),
      Paragraph("soft",
                "Keys that queries attended to, of those that dense attention does, and prompt "
                "tokens a second, answers included, by tokens of the prompt."),
      TablesHtml(AttendedTables(data.costs)), TablesHtml(SpeedTables(data.costs)),
      "</body></html>\n");
}

absl::Status WriteEvalReport(const EvalData& data, const std::string& directory) {
  for (const auto& [name, text] :
       {std::pair{"/summary.json", DumpJson(SummaryJson(data), 2) + "\n"},
        std::pair{"/report.html", EvalHtml(data)}}) {
    LONGSPAN_ASSIGN_OR_RETURN(NewFile file, NewFile::Create(directory + name));
    LONGSPAN_RETURN_IF_ERROR(file.Write(text));
    LONGSPAN_RETURN_IF_ERROR(file.Commit());
  }
  return absl::OkStatus();
}

}  // namespace longspan
