#ifndef LONGSPAN_KERNELS_CUDA_SELECT_LISTS_CUH_
#define LONGSPAN_KERNELS_CUDA_SELECT_LISTS_CUH_

#include <cuda_runtime.h>

#include <cstdint>

// What lists of a block's entries in order are made with, by which selections go short ways
// (select_given.cuh, select_decoded.cuh).
namespace longspan::cuda::selection {

// An entry in the order of a list: score bits, then entries ascending.
__device__ unsigned long long ListWord(uint32_t bits, int64_t entry) {
  return static_cast<unsigned long long>(bits) << 32 | (0xffffffffu - static_cast<uint32_t>(entry));
}

// Sums over the threads of a block: before this one, and of all.
template <typename T>
struct Sums {
  T before, total;
};

template <typename T>
__device__ T WarpSumThrough(T value) {
  const int lane = threadIdx.x % 32;
#pragma unroll
  for (int width = 1; width < 32; width *= 2) {
    const T other = __shfl_up_sync(0xffffffffu, value, width);
    if (lane >= width) value += other;
  }
  return value;
}

// warp_sums: [kBlockWarps] in shared memory.
template <int kBlockWarps, typename T>
__device__ __noinline__ Sums<T> SumOverWarps(T value, unsigned long long* warp_sums) {
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const T through = WarpSumThrough(value);
  if (lane == 31) warp_sums[warp] = through;
  __syncthreads();
  const T warps = WarpSumThrough(lane < kBlockWarps ? static_cast<T>(warp_sums[lane]) : T{0});
  const T before = __shfl_sync(0xffffffffu, warps, (warp + 31) % 32);
  const T total = __shfl_sync(0xffffffffu, warps, 31);
  __syncthreads();
  return {(warp == 0 ? T{0} : before) + through - value, total};
}

// Calls use(order, at) for each marked entry `at`, the `order`-th of all; marks: a bit for each.
// Returns how many there are. By a whole block, every thread for some; warp_sums: [kBlockWarps] in
// shared memory.
template <int kBlockWarps, typename Use>
__device__ int ForMarked(const uint32_t* marks, int num_marks, unsigned long long* warp_sums,
                         Use&& use) {
  constexpr int kBlockThreads = 32 * kBlockWarps;
  const int per_thread = (num_marks + kBlockThreads - 1) / kBlockThreads;
  const int begin = min(static_cast<int>(threadIdx.x) * per_thread, num_marks);
  const int end = min(begin + per_thread, num_marks);
  int own = 0;
  for (int i = begin; i < end; ++i) own += __popc(marks[i]);
  const Sums<int> sums = SumOverWarps<kBlockWarps>(own, warp_sums);
  int order = sums.before;
  for (int i = begin; i < end; ++i) {
    for (uint32_t mark = marks[i]; mark != 0; mark &= mark - 1) {
      use(order++, i * 32 + __ffs(static_cast<int>(mark)) - 1);
    }
  }
  return sums.total;
}

}  // namespace longspan::cuda::selection

#endif  // LONGSPAN_KERNELS_CUDA_SELECT_LISTS_CUH_
