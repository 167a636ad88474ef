#ifndef LONGSPAN_KERNELS_CUDA_GRID_BARRIER_CUH_
#define LONGSPAN_KERNELS_CUDA_GRID_BARRIER_CUH_

#include <cstdint>
#include <cuda/atomic>

namespace longspan::cuda {

// Waits for all `size` blocks of a team of a cooperative launch, one of which is the first. What a
// block wrote before, every block of the team sees after. `counter` is zero before the first launch
// that uses it; launches one after the other may share it. Its top bit flips when all have arrived:
// the first block adds what the others lack to it.
__device__ inline void TeamBarrier(uint32_t* counter, int size, bool is_first) {
  __syncthreads();
  if (threadIdx.x == 0) {
    constexpr uint32_t kTopBit = 0x80000000u;
    const ::cuda::atomic_ref<uint32_t, ::cuda::thread_scope_device> arrivals(*counter);
    const uint32_t mine = is_first ? kTopBit - (size - 1) : 1;
    const uint32_t before = arrivals.fetch_add(mine, ::cuda::memory_order_acq_rel);
    while (((arrivals.load(::cuda::memory_order_acquire) ^ before) & kTopBit) == 0) {
    }
  }
  __syncthreads();
}

}  // namespace longspan::cuda

#endif  // LONGSPAN_KERNELS_CUDA_GRID_BARRIER_CUH_
