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
#include "launcher/report_page.h"
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

std::string TableOf(const std::vector<Row>& rows) {
  std::string text = "<div class=\"wide\"><table><thead><tr>";
  for (const absl::string_view title : {"method", "context", "batch", "ranks", "outputs"}) {
    text += Element("th", "", title);
  }
  for (const Number& number : kNumbers) {
    if (!number.title.empty()) text += Element("th", "", number.title);
  }
  text += "<th>digest</th></tr></thead><tbody>\n";
  for (const Row& row : rows) {
    const ScaleKey& key = row.point.key;
    absl::StrAppend(
        &text, "<tr>", Element("td", "", key.method), Element("td", "", absl::StrCat(key.context)),
        Element("td", "", absl::StrCat(key.batch)),
        Element("td", "", absl::StrCat(key.ranks, row.point.oversubscribed() ? " *" : "")),
        "<td class=\"", row.check.failed() ? "bad" : "good", "\" title=\"",
        EscapeMarkup(row.check.text), "\">", VerdictName(row.check), "</td>");
    for (const Number& number : kNumbers) {
      if (number.title.empty()) continue;
      const double value = number.value(row) * number.factor;
      text += Element("td", "", std::isfinite(value) ? absl::StrFormat("%.4g", value) : "–");
    }
    absl::StrAppend(&text, Element("td", "digest", row.point.digest.substr(0, 12)), "</tr>\n");
  }
  return text + "</tbody></table></div>\n";
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
  const std::vector<std::pair<std::string, std::string>> lines = {
      {"scaling", study.weak ? "weak: contexts are of one rank" : "strong: the same context"},
      {"machine", absl::StrJoin(devices, "; ")},
      {"hosts", absl::StrCat(hosts.size(), ": ", absl::StrJoin(hosts, ", "))},
      {"software", absl::StrJoin(versions, ", ")},
      {"prompts", study.file.empty() ? "random tokens" : study.file},
      {"measured", absl::StrCat("medians; ", study.steps, " decoded tokens, ", study.runs,
                                study.runs == 1 ? " run" : " runs", " a point")},
      {"config", absl::StrJoin(absl::StrSplit(study.config, '\n', absl::SkipEmpty()), "; ")}};
  return Terms(lines);
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
  std::string text =
      absl::StrCat(PageHead("longspan: scaling study"), "<body>\n<h1>Scaling study</h1>\n",
                   Description(stored), CheckSection(rows), SpeedupSection(stored, any_shares));
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
