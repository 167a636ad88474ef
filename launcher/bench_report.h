#ifndef LONGSPAN_LAUNCHER_BENCH_REPORT_H_
#define LONGSPAN_LAUNCHER_BENCH_REPORT_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "launcher/bench_shape.h"
#include "launcher/report_file.h"

namespace longspan {

enum class ReportFormat { kTable, kCsv, kJson };

// The value of --format.
absl::StatusOr<ReportFormat> ParseReportFormat(absl::string_view name);

// Of several runs of the same, in seconds.
struct Timing {
  double median_s = 0;
  double min_s = 0;
  int64_t runs = 0;
};
// At least one.
Timing Summarize(std::vector<double> seconds);

// What was measured on, and what it can do at best: both rates are of one rank, measured before
// everything else.
struct BenchMachine {
  std::string device;    // "NVIDIA H200"
  std::string software;  // "driver 580.65.06, CUDA 13.0"
  std::string matmul;    // what the matrices are of
  double copy_bytes_per_s = 0;
  double matmul_flops_per_s = 0;
};

struct BenchRow {
  std::string name;
  std::string shape;
  int64_t batch = 1;    // sequences, rows, or what else `shape` says
  int64_t context = 0;  // tokens; 0: does not matter
  Timing timing;
  Work work;          // of one rank; 0: not counted
  double tokens = 0;  // that one run takes or gives; 0: not tokens
  double must_s = 0;  // the project's targets; 0: none
  double aim_s = 0;
};

struct BenchReport {
  std::string benchmark;  // "kernels"
  BenchShape shape;
  BenchMachine machine;
  std::vector<BenchRow> rows;
};

// Adds the project's targets to the rows that have one, if shape and GPU are those of the targets.
void AddTargets(BenchReport* report);

std::string FormatReport(const BenchReport& report, ReportFormat format);

// "longspan 0.1.0", and a line of CSV, as all reports have them.
std::string ReportVersion();
std::string CsvLine(const std::vector<std::string>& cells);

}  // namespace longspan

#endif  // LONGSPAN_LAUNCHER_BENCH_REPORT_H_
