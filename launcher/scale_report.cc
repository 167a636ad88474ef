#include "launcher/scale_report.h"

#include <algorithm>
#include <cmath>
#include <optional>
#include <set>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "kernels/base/status_macros.h"
#include "launcher/bench_report.h"
#include "launcher/scale_check.h"
#include "launcher/scale_figures.h"
#include "launcher/svg.h"
#include "runtime/new_file.h"

namespace longspan {
namespace {

// A point with what follows from it and from the others.
struct Row {
  const ScalePoint& point;
  std::optional<Scaling> scaling;
  OutputCheck check;
};

std::vector<Row> RowsOf(const StoredStudy& stored) {
  std::vector<Row> rows;
  for (const auto& [key, point] : stored.points) {
    rows.push_back({point, ScalingOf(stored, key), CheckOutputs(point, stored.points)});
  }
  return rows;
}

constexpr absl::string_view kVerdicts[] = {"one rank",        "bits equal",      "tokens equal",
                                           "within rounding", "no one-rank run", "DIFFERS"};

absl::string_view VerdictName(const OutputCheck& check) {
  return kVerdicts[static_cast<int>(check.verdict)];
}

// Of all ranks, in all runs.
int64_t BytesSent(const ScalePoint& point, StagePhases RankPhases::*stage) {
  int64_t bytes = 0;
  for (const RankPhases& rank : point.phases) {
    for (const auto& [name, call] : (rank.*stage).calls) bytes += call.bytes_sent;
  }
  return bytes;
}

double BytesAStep(const ScalePoint& point, StagePhases RankPhases::*stage) {
  const int64_t steps = std::max<int64_t>(1, (point.phases[0].*stage).steps);
  return static_cast<double>(BytesSent(point, stage)) / static_cast<double>(steps);
}

int64_t PlannedBytes(const ScalePoint& point) { return point.memory.fixed() + point.cache_bytes; }

int64_t PeakBytes(const ScalePoint& point) {
  return *std::max_element(point.peak_bytes.begin(), point.peak_bytes.end());
}

// One number of a row. NaN: there is none.
struct Number {
  absl::string_view key;    // in CSV
  absl::string_view title;  // in HTML, with its unit; empty: not shown
  double (*value)(const Row& row);
  double factor = 1;  // from the CSV's unit to that of HTML
};

double Efficiency(const Row& row, double Scaling::*stage) {
  if (!row.scaling) return kNotMeasured;
  return (*row.scaling).*stage / static_cast<double>(row.point.key.ranks);
}

constexpr Number kNumbers[] = {
    {"prefill_s", "prompts, s",
     [](const Row& row) { return Summarize(row.point.prefill_s).median_s; }},
    {"chunk_s", "", [](const Row& row) { return Summarize(row.point.chunks_s).median_s; }},
    {"time_to_first_token_s", "first token, s",
     [](const Row& row) { return Summarize(row.point.first_token_s).median_s; }},
    {"decode_step_s", "decoded step, ms",
     [](const Row& row) { return Summarize(row.point.decode_s).median_s; }, 1e3},
    {"prompt_tokens_per_s", "prompt tokens/s",
     [](const Row& row) { return row.point.prompt_tokens_per_s(); }},
    {"tokens_per_s", "decoded tokens/s", [](const Row& row) { return row.point.tokens_per_s(); }},
    {"prefill_speedup", "",
     [](const Row& row) { return row.scaling ? row.scaling->prefill : kNotMeasured; }},
    {"decode_speedup", "",
     [](const Row& row) { return row.scaling ? row.scaling->decode : kNotMeasured; }},
    {"prefill_efficiency", "prompt efficiency, %",
     [](const Row& row) { return Efficiency(row, &Scaling::prefill); }, 100},
    {"decode_efficiency", "decode efficiency, %",
     [](const Row& row) { return Efficiency(row, &Scaling::decode); }, 100},
    {"prefill_imbalance", "prompt imbalance",
     [](const Row& row) { return Imbalance(row.point.phases, &RankPhases::prefill); }},
    {"decode_imbalance", "decode imbalance",
     [](const Row& row) { return Imbalance(row.point.phases, &RankPhases::decode); }},
    {"prefill_share_of_matmul", "prompts, % of matmul",
     [](const Row& row) {
       return PrefillRates(row.point).flops_per_s / row.point.machine.matmul_flops_per_s;
     },
     100},
    {"decode_share_of_copy", "decoding, % of copy",
     [](const Row& row) {
       return DecodeRates(row.point).bytes_per_s / row.point.machine.copy_bytes_per_s;
     },
     100},
    {"prefill_bytes_sent_a_chunk", "sent a chunk, MB",
     [](const Row& row) { return BytesAStep(row.point, &RankPhases::prefill); }, 1e-6},
    {"decode_bytes_sent_a_step", "sent a decoded step, MB",
     [](const Row& row) { return BytesAStep(row.point, &RankPhases::decode); }, 1e-6},
    {"planned_bytes", "planned memory, MB",
     [](const Row& row) { return static_cast<double>(PlannedBytes(row.point)); }, 1e-6},
    {"peak_bytes", "peak memory, MB",
     [](const Row& row) { return static_cast<double>(PeakBytes(row.point)); }, 1e-6},
};

std::string CsvNumber(double value) {
  return std::isfinite(value) ? absl::StrFormat("%.10g", value) : "";
}

std::string Cell(absl::string_view tag, absl::string_view style, absl::string_view text) {
  return absl::StrCat("<", tag, style.empty() ? "" : absl::StrCat(" class=\"", style, "\""), ">",
                      EscapeMarkup(text), "</", tag, ">");
}

std::string TableOf(const std::vector<Row>& rows) {
  std::string text = "<div class=\"wide\"><table><thead><tr>";
  for (const absl::string_view title : {"method", "context", "batch", "ranks", "outputs"}) {
    text += Cell("th", "", title);
  }
  for (const Number& number : kNumbers) {
    if (!number.title.empty()) text += Cell("th", "", number.title);
  }
  text += "<th>digest</th></tr></thead><tbody>\n";
  for (const Row& row : rows) {
    const ScaleKey& key = row.point.key;
    absl::StrAppend(&text, "<tr>", Cell("td", "", key.method),
                    Cell("td", "", absl::StrCat(key.context)),
                    Cell("td", "", absl::StrCat(key.batch)),
                    Cell("td", "", absl::StrCat(key.ranks, row.point.oversubscribed() ? " *" : "")),
                    "<td class=\"", row.check.failed() ? "bad" : "good", "\" title=\"",
                    EscapeMarkup(row.check.text), "\">", VerdictName(row.check), "</td>");
    for (const Number& number : kNumbers) {
      if (number.title.empty()) continue;
      const double value = number.value(row) * number.factor;
      text += Cell("td", "", std::isfinite(value) ? absl::StrFormat("%.4g", value) : "–");
    }
    absl::StrAppend(&text, Cell("td", "digest", row.point.digest.substr(0, 12)), "</tr>\n");
  }
  return text + "</tbody></table></div>\n";
}

constexpr absl::string_view kStyle = R"(
:root{color-scheme:light dark;--ink:#20252b;--soft:#5a6068;--page:#fff;--line:#d9dce0;--bad:#b00020;--good:#00694a}
@media (prefers-color-scheme:dark){:root{--ink:#e6e8eb;--soft:#a4abb3;--page:#15181c;--line:#3a4047;--bad:#ff8a8a;--good:#6fd6b0}
svg .ink{fill:#e6e8eb}svg .axis{stroke:#a4abb3}svg .grid{stroke:#30353b}svg .ideal{stroke:#7d858e}svg .hollow{fill:#15181c}}
body{font:15px/1.5 system-ui,sans-serif;color:var(--ink);background:var(--page);max-width:1200px;margin:0 auto;padding:16px}
h1{font-size:1.5em;margin:.2em 0}h2{font-size:1.15em;margin:1.6em 0 .4em}p{margin:.4em 0;max-width:75ch}.soft{color:var(--soft)}
.figures{display:flex;flex-wrap:wrap;gap:24px}figure{margin:0;flex:1 1 340px;max-width:560px;min-width:0}svg{width:100%;height:auto;display:block}
.wide{overflow-x:auto}table{border-collapse:collapse;font-size:13px;font-variant-numeric:tabular-nums}
th,td{padding:4px 8px;text-align:right;border-bottom:1px solid var(--line);white-space:nowrap}
th{font-weight:600;white-space:normal;vertical-align:bottom}td:first-child,th:first-child{text-align:left}
.bad{color:var(--bad);font-weight:700}.good{color:var(--good)}.digest{font-family:monospace}
.note{border-left:4px solid #e69f00;padding:.3em .8em}dl{display:grid;grid-template-columns:max-content 1fr;gap:2px 12px;font-size:13px}
dt{color:var(--soft)}dd{margin:0;overflow-wrap:anywhere}
@media print{:root{--ink:#000;--page:#fff;--line:#ccc;--soft:#444}body{max-width:none;padding:0;font-size:10pt}
figure,tr{break-inside:avoid}.wide{overflow:visible}table{font-size:5.5pt}th,td{padding:1px 2px}
svg .ink{fill:#000}svg .axis,svg .ideal{stroke:#444}svg .grid{stroke:#ddd}svg .hollow{fill:#fff}}
)";

std::string Figures(const std::vector<std::string>& figures) {
  std::string text = "<div class=\"figures\">\n";
  for (const std::string& figure : figures) {
    absl::StrAppend(&text, "<figure>\n", figure, "</figure>\n");
  }
  return text + "</div>\n";
}

std::string Paragraph(absl::string_view style, absl::string_view text) {
  return Cell("p", style, text) + "\n";
}

// What was measured, and on what.
std::string Description(const StoredStudy& stored) {
  std::set<std::string> devices, hosts, versions;
  for (const auto& [key, point] : stored.points) {
    const BenchMachine& machine = point.machine;
    devices.insert(
        absl::StrFormat("%s (%s); one rank copies %.3g GB/s, multiplies %.3g GFLOP/s (%s)",
                        machine.device, machine.software, machine.copy_bytes_per_s * 1e-9,
                        machine.matmul_flops_per_s * 1e-9, machine.matmul));
    hosts.insert(point.hosts.begin(), point.hosts.end());
    versions.insert(point.version);
  }
  // Rates of one machine differ a little from point to point.
  if (devices.size() > 1) devices = {*devices.begin()};
  const ScaleStudy& study = stored.study;
  const std::pair<absl::string_view, std::string> lines[] = {
      {"scaling", study.weak ? "weak: contexts are of one rank" : "strong: the same context"},
      {"machine", absl::StrJoin(devices, "; ")},
      {"hosts", absl::StrCat(hosts.size(), ": ", absl::StrJoin(hosts, ", "))},
      {"software", absl::StrJoin(versions, ", ")},
      {"prompts", study.file.empty() ? "random tokens" : study.file},
      {"measured", absl::StrCat("medians; ", study.steps, " decoded tokens, ", study.runs,
                                study.runs == 1 ? " run" : " runs", " a point")},
      {"config", absl::StrJoin(absl::StrSplit(study.config, '\n', absl::SkipEmpty()), "; ")}};
  std::string text = "<dl>\n";
  for (const auto& [term, value] : lines) {
    absl::StrAppend(&text, Cell("dt", "", term), Cell("dd", "", value), "\n");
  }
  return text + "</dl>\n";
}

std::string SpeedupSection(const StoredStudy& stored, bool any_shares) {
  std::string text = "<h2>Scaling</h2>\n";
  if (any_shares) {
    text += Paragraph("note",
                      absl::StrCat("Points marked * have more ranks on a host than it has cores or "
                                   "GPUs: ",
                                   kCheckOnly, ". No speed-up is given for them."));
  }
  const std::vector<std::string> figures = SpeedupFigures(stored);
  if (figures.empty()) {
    return text + Paragraph("soft",
                            "There is nothing to plot: that takes a run on one rank and one "
                            "on several, each with a core or GPU of its own.");
  }
  return text + Figures(figures);
}

std::string CheckSection(const std::vector<Row>& rows) {
  std::string text;
  for (const Row& row : rows) {
    if (!row.check.failed()) continue;
    text += Paragraph("bad", absl::StrCat(row.point.key.ToString(), ": ", row.check.text));
  }
  return text;
}

}  // namespace

std::string ScaleCsv(const StoredStudy& stored) {
  std::vector<std::string> titles = {"method", "context", "batch",   "ranks",
                                     "hosts",  "note",    "outputs", "digest"};
  for (const Number& number : kNumbers) titles.emplace_back(number.key);
  const std::pair<absl::string_view, StagePhases RankPhases::*> stages[] = {
      {"prefill", &RankPhases::prefill}, {"decode", &RankPhases::decode}};
  for (const auto& [name, stage] : stages) {
    for (int p = 0; p < kNumPhases; ++p) {
      titles.push_back(absl::StrCat(name, "_", PhaseName(static_cast<Phase>(p)), "_s"));
    }
  }
  titles.insert(titles.end(), {"device", "version"});
  std::string text = CsvLine(titles);
  for (const Row& row : RowsOf(stored)) {
    const ScalePoint& point = row.point;
    std::vector<std::string> cells = {point.key.method,
                                      absl::StrCat(point.key.context),
                                      absl::StrCat(point.key.batch),
                                      absl::StrCat(point.key.ranks),
                                      absl::StrCat(point.num_hosts()),
                                      point.oversubscribed() ? std::string(kCheckOnly) : "",
                                      std::string(VerdictName(row.check)),
                                      point.digest};
    for (const Number& number : kNumbers) cells.push_back(CsvNumber(number.value(row)));
    for (const auto& [name, stage] : stages) {
      for (const double seconds : MeanPhases(point, stage)) cells.push_back(CsvNumber(seconds));
    }
    cells.insert(cells.end(), {point.machine.device, point.version});
    text += CsvLine(cells);
  }
  return text;
}

std::string ScaleHtml(const StoredStudy& stored) {
  const std::vector<Row> rows = RowsOf(stored);
  const bool any_shares = std::any_of(rows.begin(), rows.end(),
                                      [](const Row& row) { return row.point.oversubscribed(); });
  std::string text = absl::StrCat(
      "<!DOCTYPE html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\n"
      "<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n"
      "<title>longspan: scaling study</title>\n<style>",
      kStyle, "</style></head>\n<body>\n<h1>Scaling study</h1>\n", Description(stored),
      CheckSection(rows), SpeedupSection(stored, any_shares));
  const std::vector<std::string> phases = PhaseFigures(stored);
  absl::StrAppend(&text, "<h2>Phases</h2>\n",
                  Paragraph("soft",
                            "Work on a rank first, then exchange with others and waiting "
                            "for them. Imbalance: the largest work of a rank over the mean."),
                  phases.empty() ? Paragraph("soft", "Not measured.") : Figures(phases));
  if (const std::string roofline = RooflineFigure(stored); !roofline.empty()) {
    absl::StrAppend(&text, "<h2>Share of what the machine can do</h2>\n", Figures({roofline}));
  }
  absl::StrAppend(&text, "<h2>Points</h2>\n",
                  Paragraph("soft",
                            "Outputs: tokens and log-probabilities beside those of one "
                            "rank. Each point is a line of points.jsonl, with the phases "
                            "and bytes of every rank."),
                  TableOf(rows), "</body></html>\n");
  return text;
}

absl::Status WriteScaleReport(const StoredStudy& stored, const std::string& directory) {
  for (const auto& [name, text] :
       {std::pair{"/points.csv", ScaleCsv(stored)}, std::pair{"/report.html", ScaleHtml(stored)}}) {
    LONGSPAN_ASSIGN_OR_RETURN(NewFile file, NewFile::Create(directory + name));
    LONGSPAN_RETURN_IF_ERROR(file.Write(text));
    LONGSPAN_RETURN_IF_ERROR(file.Commit());
  }
  return absl::OkStatus();
}

}  // namespace longspan
