#ifndef LONGSPAN_KERNELS_CUDA_ROPE_CUH_
#define LONGSPAN_KERNELS_CUDA_ROPE_CUH_

#include <cuda_runtime.h>

#include <cstdint>

#include "kernels/cuda/rope.h"

namespace longspan::cuda {

// Cosine (x) and sine (y) of the angle of dimensions i and i + half, for i < half, at a position of
// the table.
__device__ inline float2 Rotation(const RopeTable& table, int64_t position, int i) {
  const auto bits = static_cast<uint64_t>(position);  // division and remainder of unsigned numbers
  const float2 a = __ldg(table.coarse + bits / kRopeFine * table.half + i);
  const float2 b = __ldg(table.fine + bits % kRopeFine * table.half + i);
  return {a.x * b.x - a.y * b.y, a.y * b.x + a.x * b.y};
}

// Two rows of the tables that together are the rotations at a position, from a pair on.
struct RotationRow {
  const float2* coarse;
  const float2* fine;
};

// Positions that fit 32 bits, whose divisions take less long.
__device__ __forceinline__ RotationRow RotationsFrom(const RopeTable& table, uint32_t position,
                                                     int first_pair) {
  constexpr auto kFine = static_cast<uint32_t>(kRopeFine);
  return {table.coarse + int64_t{position / kFine} * table.half + first_pair,
          table.fine + int64_t{position % kFine} * table.half + first_pair};
}

// Cosines and sines of two consecutive pairs: x, y of the first, z, w of the second. Both the row's
// first pair and `pair` are even, and so is the table's half.
__device__ __forceinline__ float4 RotationsAt(const RotationRow& row, int pair) {
  const float4 a = __ldg(reinterpret_cast<const float4*>(row.coarse + pair));
  const float4 b = __ldg(reinterpret_cast<const float4*>(row.fine + pair));
  return {a.x * b.x - a.y * b.y, a.y * b.x + a.x * b.y, a.z * b.z - a.w * b.w,
          a.w * b.z + a.z * b.w};
}

}  // namespace longspan::cuda

#endif  // LONGSPAN_KERNELS_CUDA_ROPE_CUH_
