#ifndef LONGSPAN_KERNELS_CUDA_NORM_CUH_
#define LONGSPAN_KERNELS_CUDA_NORM_CUH_

#include <cuda_runtime.h>

#include <cstdint>

// The arithmetic of norm.h, in the order of its launches: kernels that norm or activate on the way
// get the same bits.
namespace longspan::cuda {

constexpr int kNormWarp = 32;
// Rows of at most so many numbers are summed by a warp each, longer ones by kLongRowThreads.
constexpr int64_t kMaxWarpRow = 256;
constexpr int kLongRowThreads = 512;
// Vectors of a row that a thread reads at once: all of a short row, or 4096 numbers.
constexpr int kHeld = 2;

template <int kVector>
__device__ __forceinline__ void AddSquares(const float (&values)[kVector], float* sum) {
#pragma unroll
  for (int v = 0; v < kVector; ++v) *sum = fmaf(values[v], values[v], *sum);
}

__device__ __forceinline__ float SumOfWarp(float value) {
#pragma unroll
  for (int width = kNormWarp / 2; width > 0; width /= 2) {
    value += __shfl_xor_sync(0xffffffffu, value, width);
  }
  return value;
}

// The sum of a row from those of its warps.
__device__ __forceinline__ float SumOfWarps(const float* sums, int warps) {
  float sum = 0;
#pragma unroll 16
  for (int warp = 0; warp < warps; ++warp) sum += sums[warp];
  return sum;
}

// What a row with this sum of squares is multiplied by.
__device__ __forceinline__ float NormScale(float sum, int64_t dim, float epsilon) {
  return 1.0f / sqrtf(sum / static_cast<float>(dim) + epsilon);
}

__device__ __forceinline__ float Normed(float value, float scale, float weight) {
  return value * scale * weight;
}

// As on the CPU: below -88 the exponential has no float, and the result is 0 but for some 1e-36.
__device__ __forceinline__ float Silu(float x) {
  const float y = x < -88.0f ? -88.0f : x;
  return y / (1.0f + expf(-y));
}

}  // namespace longspan::cuda

#endif  // LONGSPAN_KERNELS_CUDA_NORM_CUH_
