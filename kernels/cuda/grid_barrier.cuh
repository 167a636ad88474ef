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

// Words by which blocks tell each other something: who acquires what one thread released sees what
// that thread's block wrote before the block's last barrier.
using DeviceWord = ::cuda::atomic_ref<unsigned long long, ::cuda::thread_scope_device>;

__device__ inline void StoreRelaxed(unsigned long long* to, unsigned long long value) {
  DeviceWord(*to).store(value, ::cuda::memory_order_relaxed);
}
__device__ inline void StoreRelease(unsigned long long* to, unsigned long long value) {
  DeviceWord(*to).store(value, ::cuda::memory_order_release);
}
__device__ inline unsigned long long LoadRelaxed(unsigned long long* from) {
  return DeviceWord(*from).load(::cuda::memory_order_relaxed);
}
__device__ inline unsigned long long LoadAcquire(unsigned long long* from) {
  return DeviceWord(*from).load(::cuda::memory_order_acquire);
}

}  // namespace longspan::cuda

#endif  // LONGSPAN_KERNELS_CUDA_GRID_BARRIER_CUH_
