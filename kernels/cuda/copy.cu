#include <cuda_runtime.h>

#include "kernels/cuda/copy.h"
#include "kernels/cuda/numbers.cuh"

namespace longspan::cuda {
namespace {

constexpr int kThreads = 512;
constexpr int kUnroll = 4;  // pieces of 16 bytes that a thread has under way

__global__ void __launch_bounds__(kThreads)
    CopyKernel(const uint4* __restrict__ from, uint4* __restrict__ to, int64_t count) {
  const int64_t first = int64_t{blockIdx.x} * kThreads * kUnroll + threadIdx.x;
  uint4 pieces[kUnroll];
#pragma unroll
  for (int i = 0; i < kUnroll; ++i) {
    if (first + i * kThreads < count) pieces[i] = __ldcs(from + first + i * kThreads);
  }
#pragma unroll
  for (int i = 0; i < kUnroll; ++i) {
    if (first + i * kThreads < count) __stcs(to + first + i * kThreads, pieces[i]);
  }
}

}  // namespace

absl::Status CopyByKernel(void* to, const void* from, int64_t bytes, Stream stream) {
  if (bytes % 16 != 0 || !IsAligned(to, 16) || !IsAligned(from, 16)) {
    return absl::InvalidArgumentError("CopyByKernel: no multiples of 16 bytes");
  }
  if (bytes == 0) return absl::OkStatus();
  const int64_t count = bytes / 16;
  CopyKernel<<<BlocksOf(count, kThreads * kUnroll), kThreads, 0, stream>>>(
      static_cast<const uint4*>(from), static_cast<uint4*>(to), count);
  return CheckLaunch("CopyByKernel");
}

}  // namespace longspan::cuda
