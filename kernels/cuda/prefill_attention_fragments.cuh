#ifndef LONGSPAN_KERNELS_CUDA_PREFILL_ATTENTION_FRAGMENTS_CUH_
#define LONGSPAN_KERNELS_CUDA_PREFILL_ATTENTION_FRAGMENTS_CUH_

#include <cuda_bf16.h>
#include <cuda_runtime.h>

#include <cstddef>
#include <cstdint>

// The matrix products of prefill attention: of a warp's 32 rows of queries and a tile of 64 keys,
// bfloat16 in shared memory, on tensor cores.
namespace longspan::cuda::prefill {

inline constexpr int kTileKeys = 64;
inline constexpr int kWarpTiles = 2;  // of 16 rows
inline constexpr int kWarpRows = 16 * kWarpTiles;

// Row i of a warp. Four warps have 64 rows in common for each of their tiles, as instructions of
// four warps would want it.
__host__ __device__ constexpr int WarpRow(int warp, int i) {
  return warp / 4 * (4 * kWarpRows) + i / 16 * 64 + warp % 4 * 16 + i % 16;
}

// Matrices lie in panels of 64 columns, 128 bytes of each row, whose pieces of 16 bytes are
// permuted: eight rows of a column of pieces lie in different banks.
inline constexpr int kPanelPieces = 8;
inline constexpr int kSwizzleBytes = 1024;

template <int kMatrixRows>
__host__ __device__ constexpr int Swizzled(int row, int piece) {
  return (piece / kPanelPieces * kMatrixRows + row) * (kPanelPieces * 16) +
         (piece % kPanelPieces ^ row % 8) * 16;
}

// Accumulators, as m16n8k16 has them: of 16 rows and 8 columns, a lane has columns lane % 4 * 2 and
// the next one of row lane / 4, and of the row 8 further down.
struct Scores {
  float of[kWarpTiles][kTileKeys / 8][4];
};
template <int kDim>
struct Output {
  float of[kWarpTiles][kDim / 8][4];
};

// Four matrices of 8x8: a lane gives the address of a row, eight lanes a matrix, and gets two
// neighbours of row lane / 4 of each, or of column lane / 4.
__device__ __forceinline__ void LoadMatrices(unsigned address, uint32_t (&out)[4]) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(out[0]), "=r"(out[1]), "=r"(out[2]), "=r"(out[3])
               : "r"(address)
               : "memory");
}
__device__ __forceinline__ void LoadTransposed(unsigned address, uint32_t (&out)[4]) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(out[0]), "=r"(out[1]), "=r"(out[2]), "=r"(out[3])
               : "r"(address)
               : "memory");
}

__device__ __forceinline__ void AddProduct(const uint32_t (&a)[4], uint32_t b0, uint32_t b1,
                                           float (&sum)[4]) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, "
      "{%8, %9}, {%0, %1, %2, %3};"
      : "+f"(sum[0]), "+f"(sum[1]), "+f"(sum[2]), "+f"(sum[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

// Rows of matrices that lanes of LoadMatrices address, and pieces, for the first 16 columns. The
// k-th next 16 columns of a panel are at the address ^ k * 32.
__host__ __device__ constexpr int RowOfLeft(int lane) { return lane % 16; }
__host__ __device__ constexpr int PieceOfLeft(int lane) { return lane / 16; }
// Of 16 keys, as columns of the right-hand side.
__host__ __device__ constexpr int RowOfKeys(int lane) { return lane / 16 * 8 + lane % 8; }
__host__ __device__ constexpr int PieceOfKeys(int lane) { return lane / 8 % 2; }

template <int kMatrixRows>
__host__ __device__ constexpr int StepOffset(int step) {  // to columns step * 16, before ^
  return step / 4 * kMatrixRows * (kPanelPieces * 16);
}

// scores = queries keys^T.
template <int kQueryRows, int kDim>
__device__ __forceinline__ void Multiply(const std::byte* queries, const std::byte* keys,
                                         Scores* scores) {
  const int lane = threadIdx.x % 32;
  const int warp = static_cast<int>(threadIdx.x) / 32;
  const auto left = static_cast<unsigned>(__cvta_generic_to_shared(
      queries + Swizzled<kQueryRows>(WarpRow(warp, RowOfLeft(lane)), PieceOfLeft(lane))));
  const auto right = static_cast<unsigned>(
      __cvta_generic_to_shared(keys + Swizzled<kTileKeys>(RowOfKeys(lane), PieceOfKeys(lane))));
#pragma unroll
  for (int m = 0; m < kWarpTiles; ++m) {
#pragma unroll
    for (int n = 0; n < kTileKeys / 8; ++n) {
#pragma unroll
      for (int e = 0; e < 4; ++e) scores->of[m][n][e] = 0;
    }
  }
#pragma unroll
  for (int step = 0; step < kDim / 16; ++step) {
    uint32_t a[kWarpTiles][4];
#pragma unroll
    for (int m = 0; m < kWarpTiles; ++m) {
      LoadMatrices((left ^ step % 4 * 32) + StepOffset<kQueryRows>(step) + m * 64 * 128, a[m]);
    }
#pragma unroll
    for (int n = 0; n < kTileKeys / 16; ++n) {
      uint32_t b[4];
      LoadMatrices((right ^ step % 4 * 32) + StepOffset<kTileKeys>(step) + n * 16 * 128, b);
#pragma unroll
      for (int m = 0; m < kWarpTiles; ++m) {
        AddProduct(a[m], b[0], b[1], scores->of[m][2 * n]);
        AddProduct(a[m], b[2], b[3], scores->of[m][2 * n + 1]);
      }
    }
  }
}

// Weights of a tile of 16 rows and of 16 keys, rounded. Accumulators have their numbers where the
// left-hand side of a product wants them.
__device__ __forceinline__ void PackWeights(const Scores& weights, int m, int step,
                                            uint32_t (&packed)[4]) {
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const float(&four)[4] = weights.of[m][2 * step + i / 2];
    const __nv_bfloat162 pair = __floats2bfloat162_rn(four[i % 2 * 2], four[i % 2 * 2 + 1]);
    packed[i] = *reinterpret_cast<const uint32_t*>(&pair);
  }
}

// output += weights values.
template <int kDim>
__device__ __forceinline__ void AddWeighted(const Scores& weights, const std::byte* values,
                                            Output<kDim>* output) {
  const int lane = threadIdx.x % 32;
  const auto right = static_cast<unsigned>(
      __cvta_generic_to_shared(values + Swizzled<kTileKeys>(RowOfLeft(lane), PieceOfLeft(lane))));
#pragma unroll
  for (int step = 0; step < kTileKeys / 16; ++step) {
    uint32_t a[kWarpTiles][4];
#pragma unroll
    for (int m = 0; m < kWarpTiles; ++m) {
      PackWeights(weights, m, step, a[m]);
    }
#pragma unroll
    for (int n = 0; n < kDim / 16; ++n) {
      uint32_t b[4];
      LoadTransposed((right ^ n % 4 * 32) + StepOffset<kTileKeys>(n) + step * 16 * 128, b);
#pragma unroll
      for (int m = 0; m < kWarpTiles; ++m) {
        AddProduct(a[m], b[0], b[1], output->of[m][2 * n]);
        AddProduct(a[m], b[2], b[3], output->of[m][2 * n + 1]);
      }
    }
  }
}

}  // namespace longspan::cuda::prefill

#endif  // LONGSPAN_KERNELS_CUDA_PREFILL_ATTENTION_FRAGMENTS_CUH_
