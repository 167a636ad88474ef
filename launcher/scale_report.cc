#include "launcher/scale_report.h"

#include <algorithm>
#include <cmath>
#include <set>
#include <utility>
#include <vector>

#include "absl/algorithm/container.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "kernels/base/status_macros.h"
#include "launcher/bench_report.h"
#include "launcher/report_page.h"
#include "launcher/scale_check.h"
#include "launcher/scale_figures.h"
#include "launcher/scale_rows.h"
#include "launcher/svg.h"
#include "runtime/new_file.h"

namespace longspan {
namespace {

std::string CsvNumber(double value) {
  return std::isfinite(value) ? absl::StrFormat("%.10g", value) : "";
}

std::string TableOf(const std::vector<ScaleRow>& rows) {
  std::string text = "<div class=\"wide\"><table><thead><tr>";
  for (const absl::string_view title : {"method", "context", "batch", "ranks", "outputs"}) {
    text += Element("th", "", title);
  }
  for (const ScaleNumber& number : ScaleNumbers()) {
    if (!number.title.empty()) text += Element("th", "", number.title);
  }
  text += "<th>digest</th></tr></thead><tbody>\n";
  for (const ScaleRow& row : rows) {
    const ScaleKey& key = row.point.key;
    absl::StrAppend(&text, "<tr>", Element("td", "", key.method),
                    Element("td", "", absl::StrCat(key.context)),
                    Element("td", "", absl::StrCat(key.batch)),
                    Element("td", "",
                            absl::StrCat(key.ranks, row.point.oversubscribed() ? " *" : "",
                                         row.is_elsewhere ? " †" : "")),
                    "<td class=\"", row.check.failed() ? "bad" : "good", "\" title=\"",
                    EscapeMarkup(row.check.text), "\">", VerdictName(row.check), "</td>");
    for (const ScaleNumber& number : ScaleNumbers()) {
      if (number.title.empty()) continue;
      const double value = number.value(row) * number.factor;
      const bool is_odd = IsAboveAll(number, row);
      text += Element(
          "td", is_odd ? "bad" : "",
          std::isfinite(value) ? absl::StrFormat("%.4g%s", value, is_odd ? " !" : "") : "–");
    }
    absl::StrAppend(&text, Element("td", "digest", row.point.digest.substr(0, 12)), "</tr>\n");
  }
  return text + "</tbody></table></div>\n";
}

// Rates of one machine differ a little from point to point: the best.
std::string MachineText(const std::string& environment,
                        const std::vector<const ScalePoint*>& points, bool is_alone) {
  double copy = 0, matmul = 0;
  for (const ScalePoint* point : points) {
    copy = std::max(copy, point->machine.copy_bytes_per_s);
    matmul = std::max(matmul, point->machine.matmul_flops_per_s);
  }
  return absl::StrFormat("%s: %sone rank copies %.3g GB/s, multiplies %.3g GFLOP/s (%s)",
                         environment, is_alone ? "" : absl::StrCat(points.size(), " points, "),
                         copy * 1e-9, matmul * 1e-9, points[0]->machine.matmul);
}

// What was measured, and on what.
std::string Description(const StoredStudy& stored) {
  std::vector<std::string> machines;
  const auto environments = ByEnvironment(stored);
  for (const auto& [name, points] : environments) {
    machines.push_back(MachineText(name, points, environments.size() == 1));
  }
  std::set<std::string> hosts;
  for (const auto& [key, point] : stored.points) {
    hosts.insert(point.hosts.begin(), point.hosts.end());
  }
  const ScaleStudy& study = stored.study;
  const std::vector<std::pair<std::string, std::string>> lines = {
      {"scaling", study.weak ? "weak: contexts are of one rank" : "strong: the same context"},
      {"machine", absl::StrJoin(machines, "; ")},
      {"hosts", absl::StrCat(hosts.size(), ": ", absl::StrJoin(hosts, ", "))},
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

// What is odd about points, a paragraph each.
std::string OddSection(const std::vector<ScaleRow>& rows) {
  std::string text;
  if (std::any_of(rows.begin(), rows.end(), [](const ScaleRow& row) { return row.is_elsewhere; })) {
    text += Paragraph("note", absl::StrCat("Points marked † were ", kElsewhere,
                                           ". No speed-up is given between the two."));
  }
  const bool any_above = std::any_of(rows.begin(), rows.end(), [](const ScaleRow& row) {
    return absl::c_any_of(ScaleNumbers(),
                          [&](const ScaleNumber& number) { return IsAboveAll(number, row); });
  });
  if (any_above) {
    text += Paragraph("note",
                      "Numbers marked ! are above 100%: caches can do that, and so can a machine "
                      "that was busy with something else when what they are compared with was "
                      "measured.");
  }
  for (const ScaleRow& row : rows) {
    if (const std::string idle = IdleText(row.point); !idle.empty())
      text += Paragraph("note", idle);
  }
  return text;
}

std::string CheckSection(const std::vector<ScaleRow>& rows) {
  std::string text;
  for (const ScaleRow& row : rows) {
    if (!row.check.failed()) continue;
    text += Paragraph("bad", absl::StrCat(row.point.key.ToString(), ": ", row.check.text));
  }
  return text;
}

}  // namespace

std::string ScaleCsv(const StoredStudy& stored) {
  std::vector<std::string> titles = {"method", "context", "batch",   "ranks",
                                     "hosts",  "note",    "outputs", "digest"};
  for (const ScaleNumber& number : ScaleNumbers()) titles.emplace_back(number.key);
  const std::pair<absl::string_view, StagePhases RankPhases::*> stages[] = {
      {"prefill", &RankPhases::prefill}, {"decode", &RankPhases::decode}};
  for (const auto& [name, stage] : stages) {
    for (int p = 0; p < kNumPhases; ++p) {
      titles.push_back(absl::StrCat(name, "_", PhaseName(static_cast<Phase>(p)), "_s"));
    }
  }
  titles.insert(titles.end(), {"device", "version"});
  std::string text = CsvLine(titles);
  for (const ScaleRow& row : RowsOf(stored)) {
    const ScalePoint& point = row.point;
    std::vector<std::string> cells = {point.key.method,
                                      absl::StrCat(point.key.context),
                                      absl::StrCat(point.key.batch),
                                      absl::StrCat(point.key.ranks),
                                      absl::StrCat(point.num_hosts()),
                                      NoteOf(row),
                                      std::string(VerdictName(row.check)),
                                      point.digest};
    for (const ScaleNumber& number : ScaleNumbers()) cells.push_back(CsvNumber(number.value(row)));
    for (const auto& [name, stage] : stages) {
      for (const double seconds : MeanPhases(point, stage)) cells.push_back(CsvNumber(seconds));
    }
    cells.insert(cells.end(), {point.machine.device, point.version});
    text += CsvLine(cells);
  }
  return text;
}

std::string ScaleHtml(const StoredStudy& stored) {
  const std::vector<ScaleRow> rows = RowsOf(stored);
  const bool any_shares = std::any_of(
      rows.begin(), rows.end(), [](const ScaleRow& row) { return row.point.oversubscribed(); });
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
  absl::StrAppend(
      &text, "<h2>Points</h2>\n",
      Paragraph("soft",
                "Outputs: tokens and log-probabilities beside those of one "
                "rank. Planned memory is what rank 0 sets aside, used or not, for weights, buffers "
                "and the cache of these prompts; peak memory the most that any rank's "
                "process had resident, with its program, libraries and the text. Each "
                "point is a line of points.jsonl, with the phases and bytes of every "
                "rank."),
      OddSection(rows), TableOf(rows), "</body></html>\n");
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
