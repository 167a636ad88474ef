#ifndef LONGSPAN_LAUNCHER_CUDA_BENCH_TIMING_H_
#define LONGSPAN_LAUNCHER_CUDA_BENCH_TIMING_H_

#include <cstdint>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "kernels/cuda/device.h"
#include "launcher/bench_report.h"

namespace longspan {

// Enqueues one run. Variants have inputs of their own, so that none is in the L2 cache.
using Launch = absl::FunctionRef<absl::Status(int variant, cuda::Stream stream)>;

// Time of one run, from replays of a graph of all variants, as a decode step is one.
absl::StatusOr<Timing> TimeLaunches(int variants, int64_t replays, Launch launch);

}  // namespace longspan

#endif  // LONGSPAN_LAUNCHER_CUDA_BENCH_TIMING_H_
