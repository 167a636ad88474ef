#ifndef LONGSPAN_KERNELS_CUDA_SUM_ACROSS_CUH_
#define LONGSPAN_KERNELS_CUDA_SUM_ACROSS_CUH_

#include <cuda_runtime.h>

namespace longspan::cuda {

// A warp's lanes in groups of kLanes: v[0] of a group's lanes is afterwards the sum over its lanes
// of one of v, if kLanes is kCount; with fewer lanes each has several sums, with more some have the
// same. Lane l has those from l * kCount / kLanes on. Each sum is the same tree.
template <int kCount, int kLanes>
__device__ void SumAcross(float (&v)[kCount]) {
  const int lane = threadIdx.x % 32;
  int count = kCount;
#pragma unroll
  for (int width = kLanes / 2; width >= 1; width /= 2) {
    if (count > 1) {
      count /= 2;
      const bool upper = (lane & width) != 0;
#pragma unroll
      for (int i = 0; i < kCount / 2; ++i) {
        if (i >= count) break;
        const float send = upper ? v[i] : v[i + count];
        const float keep = upper ? v[i + count] : v[i];
        v[i] = keep + __shfl_xor_sync(0xffffffffu, send, width);
      }
    } else {
      v[0] += __shfl_xor_sync(0xffffffffu, v[0], width);
    }
  }
}

}  // namespace longspan::cuda

#endif  // LONGSPAN_KERNELS_CUDA_SUM_ACROSS_CUH_
