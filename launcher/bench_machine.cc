#include <sys/mman.h>

#include <algorithm>
#include <cstring>
#include <fstream>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "kernels/base/status_macros.h"
#include "kernels/linear.h"
#include "launcher/bench_gpu.h"
#include "launcher/bench_runs.h"
#include "runtime/clock.h"

namespace longspan {
namespace {

constexpr int kRuns = 7;
constexpr int64_t kCopyBytes = int64_t{256} << 20;  // beyond any cache of a core
constexpr int64_t kMatmulSize = 1024;

std::string ProcessorName() {
  std::ifstream file("/proc/cpuinfo");
  for (std::string line; std::getline(file, line);) {
    const size_t colon = line.find(": ");
    if (line.starts_with("model name") && colon != line.npos) return line.substr(colon + 2);
  }
  return "unknown processor";
}

template <typename F>
double MedianSeconds(F&& run) {
  run();
  std::vector<double> seconds;
  for (int i = 0; i < kRuns; ++i) {
    const double begin = MonotonicSeconds();
    run();
    seconds.push_back(MonotonicSeconds() - begin);
  }
  return Summarize(std::move(seconds)).median_s;
}

// Straight from the system and back: the process keeps what malloc gets (PrepareProcess), and the
// memory is for the model.
absl::StatusOr<double> CopyRate() {
  void* memory =
      mmap(nullptr, 2 * kCopyBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (memory == MAP_FAILED) {
    return absl::ResourceExhaustedError(
        absl::StrCat("no memory for ", 2 * kCopyBytes, " bytes to copy"));
  }
  auto* bytes = static_cast<std::byte*>(memory);
  memset(bytes, 1, kCopyBytes);  // else all pages would be the one of zeros
  const double seconds = MedianSeconds([&] { memcpy(bytes + kCopyBytes, bytes, kCopyBytes); });
  munmap(memory, 2 * kCopyBytes);
  return 2.0 * static_cast<double>(kCopyBytes) / seconds;
}

// The memory that was copied is no part of the job's peak. Where the system does not allow it, it
// is.
void ForgetPeakMemory() { std::ofstream("/proc/self/clear_refs") << '5'; }

double MatmulRate() {
  constexpr int64_t kNumbers = kMatmulSize * kMatmulSize;
  const std::vector<float> x(kNumbers, 0.5f), weight(kNumbers, 0.25f);
  std::vector<float> y(kNumbers);
  LinearArgs args;
  args.x = x.data();
  args.rows = args.in = args.out = kMatmulSize;
  args.weight = weight.data();
  args.y = y.data();
  const double seconds = MedianSeconds([&] { Linear(args, /*panel_rows=*/0); });
  return 2.0 * static_cast<double>(kNumbers * kMatmulSize) / seconds;
}

absl::StatusOr<BenchMachine> MeasureCpu() {
  BenchMachine machine;
  machine.device = ProcessorName();
  machine.software = KernelSet();
  machine.matmul = absl::StrCat("float32, ", kMatmulSize, " squared, one core");
  LONGSPAN_ASSIGN_OR_RETURN(machine.copy_bytes_per_s, CopyRate());
  machine.matmul_flops_per_s = MatmulRate();
  ForgetPeakMemory();
  return machine;
}

}  // namespace

absl::StatusOr<BenchMachine> PrepareBench(const BenchOptions& options, const Config& config,
                                          int64_t sequences, int64_t longest) {
  if (sequences > config.max_num_seqs) {
    return absl::InvalidArgumentError(absl::StrCat(
        "--batch: ", sequences, " sequences are more than `max_num_seqs` (", config.max_num_seqs,
        ") lets run at once: add --set max_num_seqs=", sequences));
  }
  if (config.max_model_len != 0 && longest > config.max_model_len) {
    return absl::InvalidArgumentError(
        absl::StrCat("--context: a sequence gets ", longest, " tokens, more than `max_model_len` (",
                     config.max_model_len, "): add --set max_model_len=", longest));
  }
  LONGSPAN_RETURN_IF_ERROR(CheckReportPath(options.output));
  return config.device == "cuda" ? MeasureGpu() : MeasureCpu();
}

absl::Status FinishBench(const BenchOptions& options, BenchReport report) {
  AddTargets(&report);
  return WriteReport(FormatReport(report, options.format), options.output);
}

}  // namespace longspan
