#ifndef LONGSPAN_LAUNCHER_BENCH_RUNS_H_
#define LONGSPAN_LAUNCHER_BENCH_RUNS_H_

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "launcher/bench_report.h"
#include "launcher/progress.h"
#include "runtime/config.h"

// The benchmarks of `longspan bench`, one file each.
namespace longspan {

struct BenchOptions {
  std::vector<int64_t> contexts;  // tokens
  int64_t batch = 1;
  std::optional<int64_t> repeat;  // runs that a median is over; every benchmark has a default
  ReportFormat format = ReportFormat::kTable;
  std::string output;  // empty: standard output
  ProgressStyle progress = ProgressStyle::kOff;
  std::vector<std::string> groups;  // of kernels; empty: all
};

// Each returns the process's exit code; an error is one of the command line.
absl::StatusOr<int> BenchKernels(const BenchOptions& options);
absl::StatusOr<int> BenchCollectives(const BenchOptions& options);
absl::StatusOr<int> BenchLayer(const BenchOptions& options);
absl::StatusOr<int> BenchDecode(const BenchOptions& options);
absl::StatusOr<int> BenchPrefill(const BenchOptions& options);

// What rank 0 measures and checks before anything is loaded: `sequences` at once, of up to
// `longest` tokens.
absl::StatusOr<BenchMachine> PrepareBench(const BenchOptions& options, const Config& config,
                                          int64_t sequences, int64_t longest);
// Adds the targets and writes the report where it is to go.
absl::Status FinishBench(const BenchOptions& options, BenchReport report);

}  // namespace longspan

#endif  // LONGSPAN_LAUNCHER_BENCH_RUNS_H_
