#ifndef LONGSPAN_KERNELS_CUDA_PREFILL_SCORE_HOPPER_CUH_
#define LONGSPAN_KERNELS_CUDA_PREFILL_SCORE_HOPPER_CUH_

#include <cuda_runtime.h>

#include <cstdint>

#include "kernels/cuda/prefill_score_jobs.cuh"

// Hopper's own instructions that prefill_score_warpgroups.cuh uses.
#ifdef __CUDA_ARCH_FEAT_SM90_ALL

namespace longspan::cuda::scoring {

// ---- Barriers in shared memory ----

__device__ __forceinline__ unsigned SharedAddress(const void* p) {
  return static_cast<unsigned>(__cvta_generic_to_shared(p));
}

__device__ __forceinline__ void InitBarrier(uint64_t* barrier, int arrivals) {
  asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;\n" ::"r"(SharedAddress(barrier)),
               "r"(arrivals)
               : "memory");
}

__device__ __forceinline__ void Arrive(uint64_t* barrier) {
  asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];\n" ::"r"(SharedAddress(barrier))
               : "memory");
}

// Until the phase of this parity has ended.
__device__ __forceinline__ void AwaitBarrier(uint64_t* barrier, unsigned parity) {
  unsigned done = 0;
  while (done == 0) {
    asm volatile(
        "{\n.reg .pred p;\n"
        "mbarrier.try_wait.parity.shared::cta.b64 p, [%1], %2;\n"
        "selp.u32 %0, 1, 0, p;\n}\n"
        : "=r"(done)
        : "r"(SharedAddress(barrier)), "r"(parity)
        : "memory");
  }
  __syncwarp();  // what follows is for whole warps
}

// ---- The tensor cores ----

// Rows of 128 bytes, swizzled, 8 of them in 1024 bytes: leading offset unused, stride 1024,
// 128-byte swizzle; offsets in units of 16 bytes.
__device__ __forceinline__ uint64_t Descriptor(const std::byte* tile) {
  return (SharedAddress(tile) & 0x3ffff) >> 4 | uint64_t{1} << 16 | uint64_t{1024 >> 4} << 32 |
         uint64_t{1} << 62;
}

using Sums = float[64];

// Keeps what reads or writes the sums on its side of this.
__device__ __forceinline__ void Pin(Sums& sums) {
#pragma unroll
  for (float& sum : sums) asm volatile("" : "+f"(sum)::"memory");
}

__device__ __forceinline__ void MultiplyAdd(Sums& sums, uint64_t a, uint64_t b, int add) {
  asm volatile(
      "{\n.reg .pred p;\nsetp.ne.b32 p, %66, 0;\n"
      "wgmma.mma_async.sync.aligned.m64n128k16.f32.bf16.bf16 {"
      "%0, %1, %2, %3, %4, %5, %6, %7, "
      "%8, %9, %10, %11, %12, %13, %14, %15, "
      "%16, %17, %18, %19, %20, %21, %22, %23, "
      "%24, %25, %26, %27, %28, %29, %30, %31, "
      "%32, %33, %34, %35, %36, %37, %38, %39, "
      "%40, %41, %42, %43, %44, %45, %46, %47, "
      "%48, %49, %50, %51, %52, %53, %54, %55, "
      "%56, %57, %58, %59, %60, %61, %62, %63}, "
      "%64, %65, p, 1, 1, 0, 0;\n}\n"
      : "+f"(sums[0]), "+f"(sums[1]), "+f"(sums[2]), "+f"(sums[3]), "+f"(sums[4]), "+f"(sums[5]),
        "+f"(sums[6]), "+f"(sums[7]), "+f"(sums[8]), "+f"(sums[9]), "+f"(sums[10]), "+f"(sums[11]),
        "+f"(sums[12]), "+f"(sums[13]), "+f"(sums[14]), "+f"(sums[15]), "+f"(sums[16]),
        "+f"(sums[17]), "+f"(sums[18]), "+f"(sums[19]), "+f"(sums[20]), "+f"(sums[21]),
        "+f"(sums[22]), "+f"(sums[23]), "+f"(sums[24]), "+f"(sums[25]), "+f"(sums[26]),
        "+f"(sums[27]), "+f"(sums[28]), "+f"(sums[29]), "+f"(sums[30]), "+f"(sums[31]),
        "+f"(sums[32]), "+f"(sums[33]), "+f"(sums[34]), "+f"(sums[35]), "+f"(sums[36]),
        "+f"(sums[37]), "+f"(sums[38]), "+f"(sums[39]), "+f"(sums[40]), "+f"(sums[41]),
        "+f"(sums[42]), "+f"(sums[43]), "+f"(sums[44]), "+f"(sums[45]), "+f"(sums[46]),
        "+f"(sums[47]), "+f"(sums[48]), "+f"(sums[49]), "+f"(sums[50]), "+f"(sums[51]),
        "+f"(sums[52]), "+f"(sums[53]), "+f"(sums[54]), "+f"(sums[55]), "+f"(sums[56]),
        "+f"(sums[57]), "+f"(sums[58]), "+f"(sums[59]), "+f"(sums[60]), "+f"(sums[61]),
        "+f"(sums[62]), "+f"(sums[63])
      : "l"(a), "l"(b), "r"(add));
}

// Starts sums = queries . keys of 64 and 128 rows, whose panels lie so many bytes apart.
template <int kPanels>
__device__ __forceinline__ void StartProducts(Sums& sums, const std::byte* queries, int query_panel,
                                              const std::byte* keys, int key_panel) {
  constexpr int kSteps = kPanelBytes / 32;  // 16 numbers each
  Pin(sums);
  asm volatile("wgmma.fence.sync.aligned;\n" ::: "memory");
#pragma unroll
  for (int panel = 0; panel < kPanels; ++panel) {
    const uint64_t a = Descriptor(queries + panel * query_panel);
    const uint64_t b = Descriptor(keys + panel * key_panel);
#pragma unroll
    for (int step = 0; step < kSteps; ++step) {
      MultiplyAdd(sums, a + step * 2, b + step * 2, panel + step);
    }
  }
  asm volatile("wgmma.commit_group.sync.aligned;\n" ::: "memory");
}

// Until all but the last kPending products that were started are there, `sums` among them.
template <int kPending>
__device__ __forceinline__ void AwaitProducts(Sums& sums) {
  asm volatile("wgmma.wait_group.sync.aligned %0;\n" ::"n"(kPending) : "memory");
  Pin(sums);
}

}  // namespace longspan::cuda::scoring

#endif  // __CUDA_ARCH_FEAT_SM90_ALL

#endif  // LONGSPAN_KERNELS_CUDA_PREFILL_SCORE_HOPPER_CUH_
