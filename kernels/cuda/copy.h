#ifndef LONGSPAN_KERNELS_CUDA_COPY_H_
#define LONGSPAN_KERNELS_CUDA_COPY_H_

#include <cstdint>

#include "absl/status/status.h"
#include "kernels/cuda/device.h"

namespace longspan::cuda {

// Copies within device memory by a kernel, which is faster than cudaMemcpy where there is much:
// what other kernels' rates are measured against. All of it is a multiple of 16 bytes, and aligned
// so.
absl::Status CopyByKernel(void* to, const void* from, int64_t bytes, Stream stream);

}  // namespace longspan::cuda

#endif  // LONGSPAN_KERNELS_CUDA_COPY_H_
