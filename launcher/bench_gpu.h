#ifndef LONGSPAN_LAUNCHER_BENCH_GPU_H_
#define LONGSPAN_LAUNCHER_BENCH_GPU_H_

#include <cstdint>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "collectives/communicator.h"
#include "launcher/bench_collectives.h"
#include "launcher/bench_report.h"
#include "launcher/bench_runs.h"
#include "runtime/config.h"

// What of the benchmarks needs CUDA: launcher/cuda/. Builds without it have stand-ins that say so.
namespace longspan {

// The first GPU that this process sees.
absl::StatusOr<BenchMachine> MeasureGpu();

// Kernels by themselves, at the shape and contexts. NotFound: there is no such group.
absl::StatusOr<std::vector<BenchRow>> MeasureGpuKernels(const BenchShape& shape,
                                                        const BenchOptions& options);

// Collectives between the GPUs of the ranks: called one by one and, where that can be, from a
// graph; with memory of AllocateShared and without. Collective.
absl::StatusOr<std::vector<BenchRow>> MeasureGpuCollectives(absl::Span<const CollectiveCase> cases,
                                                            int64_t runs, const Config& config,
                                                            Communicator& communicator);

// From host memory to the current GPU's; has happened when it returns.
absl::Status CopyToGpu(void* to, const void* from, int64_t bytes);

}  // namespace longspan

#endif  // LONGSPAN_LAUNCHER_BENCH_GPU_H_
