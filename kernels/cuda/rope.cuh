#ifndef LONGSPAN_KERNELS_CUDA_ROPE_CUH_
#define LONGSPAN_KERNELS_CUDA_ROPE_CUH_

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

}  // namespace longspan::cuda

#endif  // LONGSPAN_KERNELS_CUDA_ROPE_CUH_
