#ifndef LONGSPAN_RUNTIME_CUDA_CUDA_LIMITS_H_
#define LONGSPAN_RUNTIME_CUDA_CUDA_LIMITS_H_

#include "absl/status/status.h"
#include "kernels/cuda/device.h"
#include "runtime/config.h"
#include "runtime/cuda/cuda_buffers.h"

namespace longspan {

// Refuses what kernels that a run would launch do not take, by the limits of their headers, before
// minutes go into loading: InvalidArgument or Unimplemented, saying what to change. `sizes` are
// those of `config`. Needs no GPU: `info` describes it.
absl::Status CheckCudaLimits(const Config& config, const CudaSizes& sizes,
                             const cuda::DeviceInfo& info);

}  // namespace longspan

#endif  // LONGSPAN_RUNTIME_CUDA_CUDA_LIMITS_H_
