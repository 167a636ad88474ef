#ifndef LONGSPAN_KERNELS_CUDA_PREFILL_ATTENTION_WARPGROUP_CUH_
#define LONGSPAN_KERNELS_CUDA_PREFILL_ATTENTION_WARPGROUP_CUH_

#include <cuda_runtime.h>

#include <cstddef>
#include <cstdint>

#include "kernels/cuda/prefill_attention_fragments.cuh"

// The products of prefill_attention_fragments.cuh by instructions that four warps issue together,
// of sm_90a alone. They run while other instructions do, until they are awaited.
namespace longspan::cuda::prefill {

// LONGSPAN_NO_WARPGROUPS tries the instructions of other architectures on this one.
#if defined(__CUDA_ARCH_FEAT_SM90_ALL) && !defined(LONGSPAN_NO_WARPGROUPS)
inline constexpr bool kWarpgroups = true;

// A matrix in shared memory, permuted as Swizzled is. The stride is that of eight rows, `leading`
// that of panels, where an instruction takes columns of several.
__device__ __forceinline__ uint64_t Descriptor(const std::byte* matrix, int leading) {
  const auto address = static_cast<uint64_t>(__cvta_generic_to_shared(matrix));
  constexpr uint64_t kStride = 8 * kPanelPieces * 16;
  return (address & 0x3ffff) >> 4 | static_cast<uint64_t>(leading >> 4) << 16 |
         (kStride >> 4) << 32 | uint64_t{1} << 62;
}

// What threads have written is there for the instructions, after a barrier.
__device__ __forceinline__ void PublishShared() {
  asm volatile("fence.proxy.async.shared::cta;\n" ::: "memory");
}
// Orders accesses to registers with the statements around, which the compiler takes to be free of
// them.
template <int kCount>
__device__ __forceinline__ void Pin(float (&numbers)[kCount][4]) {
#pragma unroll
  for (int n = 0; n < kCount; ++n) {
#pragma unroll
    for (int i = 0; i < 4; ++i) asm volatile("" : "+f"(numbers[n][i])::"memory");
  }
}
template <int kCount>
__device__ __forceinline__ void Pin(uint32_t (&numbers)[kCount][4]) {
#pragma unroll
  for (int n = 0; n < kCount; ++n) {
#pragma unroll
    for (int i = 0; i < 4; ++i) asm volatile("" : "+r"(numbers[n][i])::"memory");
  }
}

// Products that follow see what registers hold.
__device__ __forceinline__ void BeginProducts() {
  asm volatile("wgmma.fence.sync.aligned;\n" ::: "memory");
}
__device__ __forceinline__ void CommitProducts() {
  asm volatile("wgmma.commit_group.sync.aligned;\n" ::: "memory");
}
template <int kPending>
__device__ __forceinline__ void AwaitProducts() {
  asm volatile("wgmma.wait_group.sync.aligned %0;\n" ::"n"(kPending) : "memory");
}

// sum (+)= a b^T, of 64 columns.
__device__ __forceinline__ void AddProductAsync(uint64_t a, uint64_t b, bool accumulate,
                                                float (&sum)[8][4]) {
  asm volatile(
      "{ .reg .pred p; setp.ne.b32 p, %34, 0;\n"
      "wgmma.mma_async.sync.aligned.m64n64k16.f32.bf16.bf16 {"
      "%0, %1, %2, %3, %4, %5, %6, %7, "
      "%8, %9, %10, %11, %12, %13, %14, %15, "
      "%16, %17, %18, %19, %20, %21, %22, %23, "
      "%24, %25, %26, %27, %28, %29, %30, %31}, "
      "%32, %33, p, 1, 1, 0, 0; }\n"
      : "+f"(sum[0][0]), "+f"(sum[0][1]), "+f"(sum[0][2]), "+f"(sum[0][3]), "+f"(sum[1][0]),
        "+f"(sum[1][1]), "+f"(sum[1][2]), "+f"(sum[1][3]), "+f"(sum[2][0]), "+f"(sum[2][1]),
        "+f"(sum[2][2]), "+f"(sum[2][3]), "+f"(sum[3][0]), "+f"(sum[3][1]), "+f"(sum[3][2]),
        "+f"(sum[3][3]), "+f"(sum[4][0]), "+f"(sum[4][1]), "+f"(sum[4][2]), "+f"(sum[4][3]),
        "+f"(sum[5][0]), "+f"(sum[5][1]), "+f"(sum[5][2]), "+f"(sum[5][3]), "+f"(sum[6][0]),
        "+f"(sum[6][1]), "+f"(sum[6][2]), "+f"(sum[6][3]), "+f"(sum[7][0]), "+f"(sum[7][1]),
        "+f"(sum[7][2]), "+f"(sum[7][3])
      : "l"(a), "l"(b), "r"(accumulate ? 1 : 0));
}

// sum += a b.
__device__ __forceinline__ void AddProductAsync(const uint32_t (&a)[4], uint64_t b,
                                                float (&sum)[8][4]) {
  asm volatile(
      "{ .reg .pred p; setp.ne.b32 p, %37, 0;\n"
      "wgmma.mma_async.sync.aligned.m64n64k16.f32.bf16.bf16 {"
      "%0, %1, %2, %3, %4, %5, %6, %7, "
      "%8, %9, %10, %11, %12, %13, %14, %15, "
      "%16, %17, %18, %19, %20, %21, %22, %23, "
      "%24, %25, %26, %27, %28, %29, %30, %31}, "
      "{%32, %33, %34, %35}, %36, p, 1, 1, 1; }\n"
      : "+f"(sum[0][0]), "+f"(sum[0][1]), "+f"(sum[0][2]), "+f"(sum[0][3]), "+f"(sum[1][0]),
        "+f"(sum[1][1]), "+f"(sum[1][2]), "+f"(sum[1][3]), "+f"(sum[2][0]), "+f"(sum[2][1]),
        "+f"(sum[2][2]), "+f"(sum[2][3]), "+f"(sum[3][0]), "+f"(sum[3][1]), "+f"(sum[3][2]),
        "+f"(sum[3][3]), "+f"(sum[4][0]), "+f"(sum[4][1]), "+f"(sum[4][2]), "+f"(sum[4][3]),
        "+f"(sum[5][0]), "+f"(sum[5][1]), "+f"(sum[5][2]), "+f"(sum[5][3]), "+f"(sum[6][0]),
        "+f"(sum[6][1]), "+f"(sum[6][2]), "+f"(sum[6][3]), "+f"(sum[7][0]), "+f"(sum[7][1]),
        "+f"(sum[7][2]), "+f"(sum[7][3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(1));
}
__device__ __forceinline__ void AddProductAsync(const uint32_t (&a)[4], uint64_t b,
                                                float (&sum)[16][4]) {
  asm volatile(
      "{ .reg .pred p; setp.ne.b32 p, %69, 0;\n"
      "wgmma.mma_async.sync.aligned.m64n128k16.f32.bf16.bf16 {"
      "%0, %1, %2, %3, %4, %5, %6, %7, "
      "%8, %9, %10, %11, %12, %13, %14, %15, "
      "%16, %17, %18, %19, %20, %21, %22, %23, "
      "%24, %25, %26, %27, %28, %29, %30, %31, "
      "%32, %33, %34, %35, %36, %37, %38, %39, "
      "%40, %41, %42, %43, %44, %45, %46, %47, "
      "%48, %49, %50, %51, %52, %53, %54, %55, "
      "%56, %57, %58, %59, %60, %61, %62, %63}, "
      "{%64, %65, %66, %67}, %68, p, 1, 1, 1; }\n"
      : "+f"(sum[0][0]), "+f"(sum[0][1]), "+f"(sum[0][2]), "+f"(sum[0][3]), "+f"(sum[1][0]),
        "+f"(sum[1][1]), "+f"(sum[1][2]), "+f"(sum[1][3]), "+f"(sum[2][0]), "+f"(sum[2][1]),
        "+f"(sum[2][2]), "+f"(sum[2][3]), "+f"(sum[3][0]), "+f"(sum[3][1]), "+f"(sum[3][2]),
        "+f"(sum[3][3]), "+f"(sum[4][0]), "+f"(sum[4][1]), "+f"(sum[4][2]), "+f"(sum[4][3]),
        "+f"(sum[5][0]), "+f"(sum[5][1]), "+f"(sum[5][2]), "+f"(sum[5][3]), "+f"(sum[6][0]),
        "+f"(sum[6][1]), "+f"(sum[6][2]), "+f"(sum[6][3]), "+f"(sum[7][0]), "+f"(sum[7][1]),
        "+f"(sum[7][2]), "+f"(sum[7][3]), "+f"(sum[8][0]), "+f"(sum[8][1]), "+f"(sum[8][2]),
        "+f"(sum[8][3]), "+f"(sum[9][0]), "+f"(sum[9][1]), "+f"(sum[9][2]), "+f"(sum[9][3]),
        "+f"(sum[10][0]), "+f"(sum[10][1]), "+f"(sum[10][2]), "+f"(sum[10][3]), "+f"(sum[11][0]),
        "+f"(sum[11][1]), "+f"(sum[11][2]), "+f"(sum[11][3]), "+f"(sum[12][0]), "+f"(sum[12][1]),
        "+f"(sum[12][2]), "+f"(sum[12][3]), "+f"(sum[13][0]), "+f"(sum[13][1]), "+f"(sum[13][2]),
        "+f"(sum[13][3]), "+f"(sum[14][0]), "+f"(sum[14][1]), "+f"(sum[14][2]), "+f"(sum[14][3]),
        "+f"(sum[15][0]), "+f"(sum[15][1]), "+f"(sum[15][2]), "+f"(sum[15][3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(1));
}

template <int kQueryRows, int kDim>
__device__ __forceinline__ void MultiplyAsync(int m, const std::byte* queries,
                                              const std::byte* keys, Scores* scores) {
  const int row = static_cast<int>(threadIdx.x) / 128 * (4 * kWarpRows) + m * 64;
  Pin(scores->of[m]);
  BeginProducts();
#pragma unroll
  for (int step = 0; step < kDim / 16; ++step) {
    const int left = StepOffset<kQueryRows>(step) + step % 4 * 32;
    const int right = StepOffset<kTileKeys>(step) + step % 4 * 32;
    AddProductAsync(Descriptor(queries + row * (kPanelPieces * 16) + left, 16),
                    Descriptor(keys + right, 16), step > 0, scores->of[m]);
  }
  CommitProducts();
}

// `packed` must stay as it is until the products are awaited.
template <int kDim>
__device__ __forceinline__ void AddWeightedAsync(int m, uint32_t (&packed)[kTileKeys / 16][4],
                                                 const std::byte* values, Output<kDim>* output) {
  Pin(packed);
  Pin(output->of[m]);
  BeginProducts();
#pragma unroll
  for (int step = 0; step < kTileKeys / 16; ++step) {
    AddProductAsync(
        packed[step],
        Descriptor(values + step * 16 * (kPanelPieces * 16), kTileKeys * kPanelPieces * 16),
        output->of[m]);
  }
  CommitProducts();
}

#else
inline constexpr bool kWarpgroups = false;
__device__ __forceinline__ void PublishShared() {}
// Never called.
template <typename Numbers>
__device__ void Pin(Numbers& numbers);
template <int kPending>
__device__ void AwaitProducts();
template <int kQueryRows, int kDim>
__device__ void MultiplyAsync(int m, const std::byte* queries, const std::byte* keys,
                              Scores* scores);
template <int kDim>
__device__ void AddWeightedAsync(int m, uint32_t (&packed)[kTileKeys / 16][4],
                                 const std::byte* values, Output<kDim>* output);
#endif

}  // namespace longspan::cuda::prefill

#endif  // LONGSPAN_KERNELS_CUDA_PREFILL_ATTENTION_WARPGROUP_CUH_
