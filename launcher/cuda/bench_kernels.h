#ifndef LONGSPAN_LAUNCHER_CUDA_BENCH_KERNELS_H_
#define LONGSPAN_LAUNCHER_CUDA_BENCH_KERNELS_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "launcher/bench_report.h"
#include "launcher/bench_runs.h"
#include "launcher/cuda/bench_timing.h"

namespace longspan {

// What the groups of kernels add their rows to.
struct KernelBench {
  const BenchShape& shape;
  const BenchOptions& options;
  std::vector<BenchRow> rows;

  // Times the row, whose timing is missing, and adds it.
  absl::Status Add(BenchRow row, int variants, Launch launch);
};

// A group each.
absl::Status BenchCopyAndMatmul(KernelBench* bench);
absl::Status BenchLinear(KernelBench* bench);
absl::Status BenchTopK(KernelBench* bench);
absl::Status BenchMerge(KernelBench* bench);
absl::Status BenchDecodeAttention(KernelBench* bench);
absl::Status BenchPrefillAttention(KernelBench* bench);

}  // namespace longspan

#endif  // LONGSPAN_LAUNCHER_CUDA_BENCH_KERNELS_H_
