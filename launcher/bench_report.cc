#include "launcher/bench_report.h"

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_replace.h"
#include "absl/strings/string_view.h"
#include "launcher/subcommand.h"

namespace longspan {
namespace {

// The project's targets, on one H200 at the default shape. `must` is what a release has to reach.
struct Target {
  absl::string_view benchmark;
  absl::string_view name;
  int64_t batch;
  int64_t context;
  double must_s;
  double aim_s;
};
constexpr Target kTargets[] = {
    {"kernels", "decode attention", 1, 262'144, 40e-6, 28e-6},
    {"kernels", "decode attention, fp8 score keys", 1, 262'144, 31e-6, 21e-6},
    {"kernels", "decode attention", 1, 1'048'576, 98e-6, 80e-6},
    {"kernels", "decode attend", 1, 262'144, 12e-6, 8e-6},
    {"kernels", "decode attend", 1, 1'048'576, 12e-6, 8e-6},
    {"kernels", "top-k", 1, 262'144, 17e-6, 9e-6},
    {"kernels", "top-k", 1, 1'048'576, 25e-6, 15e-6},
    {"kernels", "top-k", 16, 262'144, 28e-6, 20e-6},
    {"kernels", "prefill attention", 1, 262'144, 2.5e-3, 1.7e-3},
    {"decode", "decode", 1, 262'144, 6.0e-3, 5.0e-3},
    {"prefill", "prefill", 1, 262'144, 14, 9},
};
constexpr absl::string_view kTargetDevice = "H200";

// One column of a report. A value that is not finite is one that there is not.
struct Column {
  absl::string_view key;    // in CSV and JSON
  absl::string_view title;  // in a table
  double (*value)(const BenchReport&, const BenchRow&);
  std::string (*text)(double);  // in a table
};

double OrNone(double value) { return value > 0 ? value : NAN; }

std::string TimeText(double us) {
  if (us < 1e3) return absl::StrFormat("%.2f us", us);
  return us < 1e6 ? absl::StrFormat("%.3f ms", us * 1e-3) : absl::StrFormat("%.3f s", us * 1e-6);
}

std::string Scaled(double value, absl::string_view unit) {
  constexpr absl::string_view kPrefixes[] = {"", "k", "M", "G", "T", "P"};
  size_t prefix = 0;
  for (; value >= 1000 && prefix + 1 < std::size(kPrefixes); ++prefix) value /= 1000;
  return absl::StrFormat("%.4g %s%s", value, kPrefixes[prefix], unit);
}

std::string BytesText(double bytes) { return Scaled(bytes, "B"); }
std::string FlopsText(double flops) { return Scaled(flops, ""); }
std::string OneDigit(double value) { return absl::StrFormat("%.1f", value); }
std::string TwoDigits(double value) { return absl::StrFormat("%.2f", value); }
std::string PercentText(double share) { return absl::StrFormat("%.1f%%", 100 * share); }

double BytesPerSecond(const BenchRow& row) { return row.work.bytes / row.timing.median_s; }
double FlopsPerSecond(const BenchRow& row) { return row.work.flops / row.timing.median_s; }

constexpr Column kColumns[] = {
    {"median_us", "median",
     [](const BenchReport&, const BenchRow& row) { return row.timing.median_s * 1e6; }, TimeText},
    {"min_us", "min",
     [](const BenchReport&, const BenchRow& row) { return row.timing.min_s * 1e6; }, TimeText},
    {"must_us", "must",
     [](const BenchReport&, const BenchRow& row) { return OrNone(row.must_s * 1e6); }, TimeText},
    {"aim_us", "aim",
     [](const BenchReport&, const BenchRow& row) { return OrNone(row.aim_s * 1e6); }, TimeText},
    {"bytes", "bytes",
     [](const BenchReport&, const BenchRow& row) { return OrNone(row.work.bytes); }, BytesText},
    {"flops", "FLOPs",
     [](const BenchReport&, const BenchRow& row) { return OrNone(row.work.flops); }, FlopsText},
    {"gb_per_s", "GB/s",
     [](const BenchReport&, const BenchRow& row) { return OrNone(BytesPerSecond(row) * 1e-9); },
     OneDigit},
    {"tflop_per_s", "TFLOP/s",
     [](const BenchReport&, const BenchRow& row) { return OrNone(FlopsPerSecond(row) * 1e-12); },
     TwoDigits},
    {"share_of_copy", "of copy",
     [](const BenchReport& report, const BenchRow& row) {
       return OrNone(BytesPerSecond(row) / report.machine.copy_bytes_per_s);
     },
     PercentText},
    {"share_of_matmul", "of matmul",
     [](const BenchReport& report, const BenchRow& row) {
       return OrNone(FlopsPerSecond(row) / report.machine.matmul_flops_per_s);
     },
     PercentText},
    {"tokens_per_s", "tokens/s",
     [](const BenchReport&, const BenchRow& row) {
       return OrNone(row.tokens / row.timing.median_s);
     },
     OneDigit},
};

std::string HeaderLines(const BenchReport& report) {
  const BenchMachine& machine = report.machine;
  return absl::StrCat(ReportVersion(), " bench ", report.benchmark, "; ", machine.device, "; ",
                      machine.software, "; ", report.shape.ranks,
                      report.shape.ranks == 1 ? " rank\n" : " ranks\n", report.shape.ToString(),
                      "\n", "copy ", Scaled(machine.copy_bytes_per_s, "B/s"), ", matmul ",
                      Scaled(machine.matmul_flops_per_s, "FLOP/s"), " (", machine.matmul,
                      "), of one rank; bytes and FLOPs are the least that one rank needs\n\n");
}

using Cells = std::vector<std::string>;

Cells TableCells(const BenchReport& report, const BenchRow& row) {
  Cells cells = {row.name, row.shape};
  for (const Column& column : kColumns) {
    const double value = column.value(report, row);
    cells.push_back(std::isfinite(value) ? column.text(value) : "");
  }
  return cells;
}

// Columns without any value are left out; names are to the left, numbers to the right.
std::string Align(const std::vector<Cells>& lines) {
  constexpr size_t kNames = 2;
  std::vector<size_t> widths(lines[0].size(), 0);
  for (size_t c = 0; c < widths.size(); ++c) {
    bool has_value = c < kNames;
    for (size_t l = 1; l < lines.size(); ++l) has_value |= !lines[l][c].empty();
    if (!has_value) continue;
    for (const Cells& cells : lines) widths[c] = std::max(widths[c], cells[c].size());
  }
  std::string text;
  for (const Cells& cells : lines) {
    std::string line;
    for (size_t c = 0; c < cells.size(); ++c) {
      if (widths[c] == 0) continue;
      const std::string space(widths[c] - cells[c].size(), ' ');
      absl::StrAppend(&line, c == 0 ? "" : "  ", c < kNames ? cells[c] + space : space + cells[c]);
    }
    absl::StrAppend(&text, line.substr(0, line.find_last_not_of(' ') + 1), "\n");
  }
  return text;
}

std::string Table(const BenchReport& report) {
  std::vector<Cells> lines = {{"name", "shape"}};
  for (const Column& column : kColumns) lines[0].emplace_back(column.title);
  for (const BenchRow& row : report.rows) lines.push_back(TableCells(report, row));
  return HeaderLines(report) + Align(lines);
}

// RFC 4180.
std::string CsvCell(absl::string_view text) {
  if (text.find_first_of(",\"\r\n") == text.npos) return std::string(text);
  return absl::StrCat("\"", absl::StrReplaceAll(text, {{"\"", "\"\""}}), "\"");
}

// What the header of a table says is in every line, so that files can be put together.
std::string Csv(const BenchReport& report) {
  Cells titles = {"benchmark", "name", "shape", "batch", "context", "runs"};
  for (const Column& column : kColumns) titles.emplace_back(column.key);
  titles.insert(titles.end(), {"ranks", "device", "software", "version"});
  std::string text = CsvLine(titles);
  for (const BenchRow& row : report.rows) {
    Cells cells = {report.benchmark,
                   row.name,
                   row.shape,
                   absl::StrCat(row.batch),
                   absl::StrCat(row.context),
                   absl::StrCat(row.timing.runs)};
    for (const Column& column : kColumns) {
      const double value = column.value(report, row);
      cells.push_back(std::isfinite(value) ? absl::StrFormat("%.10g", value) : "");
    }
    cells.insert(cells.end(), {absl::StrCat(report.shape.ranks), report.machine.device,
                               report.machine.software, ReportVersion()});
    absl::StrAppend(&text, CsvLine(cells));
  }
  return text;
}

std::string Json(const BenchReport& report) {
  using OrderedJson = nlohmann::ordered_json;
  OrderedJson rows = OrderedJson::array();
  for (const BenchRow& row : report.rows) {
    OrderedJson object = {{"name", row.name},
                          {"shape", row.shape},
                          {"batch", row.batch},
                          {"context", row.context},
                          {"runs", row.timing.runs}};
    for (const Column& column : kColumns) {
      const double value = column.value(report, row);
      object[std::string(column.key)] = std::isfinite(value) ? OrderedJson(value) : nullptr;
    }
    rows.push_back(std::move(object));
  }
  const OrderedJson json = {{"version", ReportVersion()},
                            {"benchmark", report.benchmark},
                            {"device", report.machine.device},
                            {"software", report.machine.software},
                            {"ranks", report.shape.ranks},
                            {"model", report.shape.ToString()},
                            {"copy_gb_per_s", report.machine.copy_bytes_per_s * 1e-9},
                            {"matmul_tflop_per_s", report.machine.matmul_flops_per_s * 1e-12},
                            {"matmul", report.machine.matmul},
                            {"rows", std::move(rows)}};
  // A device's name may be any bytes.
  return json.dump(2, ' ', false, OrderedJson::error_handler_t::replace) + "\n";
}

struct Format {
  absl::string_view name;
  ReportFormat format;
  std::string (*text)(const BenchReport&);
};
constexpr Format kFormats[] = {{"table", ReportFormat::kTable, Table},
                               {"csv", ReportFormat::kCsv, Csv},
                               {"json", ReportFormat::kJson, Json}};

}  // namespace

absl::StatusOr<ReportFormat> ParseReportFormat(absl::string_view name) {
  for (const Format& format : kFormats) {
    if (format.name == name) return format.format;
  }
  return absl::InvalidArgumentError(
      absl::StrCat("--format must be table, csv or json, not ", name));
}

std::string ReportVersion() {
  const std::string text = VersionText();
  return text.substr(0, text.find('\n'));
}

std::string CsvLine(const std::vector<std::string>& cells) {
  return absl::StrJoin(cells, ",",
                       [](std::string* out, const std::string& cell) {
                         absl::StrAppend(out, CsvCell(cell));
                       }) +
         "\n";
}

Timing Summarize(std::vector<double> seconds) {
  std::sort(seconds.begin(), seconds.end());
  const size_t middle = seconds.size() / 2;
  const double median =
      seconds.size() % 2 == 1 ? seconds[middle] : (seconds[middle - 1] + seconds[middle]) / 2;
  return {median, seconds[0], static_cast<int64_t>(seconds.size())};
}

void AddTargets(BenchReport* report) {
  if (!absl::StrContains(report->machine.device, kTargetDevice)) return;
  if (report->shape != BenchShape()) return;
  for (BenchRow& row : report->rows) {
    for (const Target& target : kTargets) {
      if (target.benchmark != report->benchmark || target.name != row.name) continue;
      if (target.batch != row.batch || target.context != row.context) continue;
      row.must_s = target.must_s;
      row.aim_s = target.aim_s;
    }
  }
}

std::string FormatReport(const BenchReport& report, ReportFormat format) {
  return kFormats[static_cast<size_t>(format)].text(report);
}

}  // namespace longspan
