#ifndef LONGSPAN_KERNELS_CUDA_PREFILL_ATTENTION_KEYS_CUH_
#define LONGSPAN_KERNELS_CUDA_PREFILL_ATTENTION_KEYS_CUH_

#include <cuda_runtime.h>

#include <cstddef>
#include <cstdint>
#include <limits>

#include "kernels/cuda/prefill_attention.h"

// What the kernels of prefill_attention.cu share: the rows of queries that a thread block computes,
// and the tiles of keys that they attend to.
namespace longspan::cuda::prefill {

inline constexpr float kInfinity = std::numeric_limits<float>::infinity();
inline constexpr float kLn2 = 0.6931471805599453f;
inline constexpr int kWarp = 32;
inline constexpr unsigned kAllLanes = 0xffffffff;

// The arguments, and what they give.
struct Task {
  PrefillAttentionArgs args;
  float scale;  // of queries, so that 2 to the power of a score is its weight
  int group;    // heads of a KV head
};

// The launch's shared memory, aligned as the permuted matrices of any kernel want it.
template <typename Shared>
__device__ __forceinline__ Shared* DynamicShared() {
  extern __shared__ __align__(1024) std::byte dynamic_shared[];
  static_assert(alignof(Shared) <= 1024);
  return reinterpret_cast<Shared*>(dynamic_shared);
}

__device__ __forceinline__ float Exp2(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));  // as exp2f, but subnormals are 0
  return y;
}

// What exponents are taken relative to: nothing has been seen where the maximum is -inf.
__device__ __forceinline__ float Shift(float max) { return max == -kInfinity ? 0.0f : max; }

// ---- Rows --------------------------------------------------------------------------------------

// The queries of a block and KV head in one sequence of rows, token by token and head by head of
// the group. A thread block has `count` of them, from `first` on.
struct Rows {
  int64_t first_row;       // of the block
  int64_t first_position;  // of the block
  int first;
  int count;

  __device__ int Token(int row, int group) const {
    return static_cast<int>(static_cast<unsigned>(first + row) / static_cast<unsigned>(group));
  }
  __device__ uint32_t Position(int row, int group) const {
    return static_cast<uint32_t>(first_position) + Token(row, group);
  }
  // Index in [rows, heads].
  __device__ int64_t Head(int row, const Task& task) const {
    const int token = Token(row, task.group);
    return (first_row + token) * task.args.shape.heads + int64_t{blockIdx.y} * task.group +
           (first + row - token * task.group);
  }
};

// The grid is tiles of rows x KV heads x blocks; count is not positive where there is no row.
template <int kRows>
__device__ __forceinline__ Rows RowsOf(const Task& task, const AttentionBlock& block) {
  Rows rows;
  rows.first_row = block.first_row;
  rows.first_position = block.first_position;
  rows.first = static_cast<int>(blockIdx.x) * kRows;
  rows.count = min(kRows, static_cast<int>(block.queries) * task.group - rows.first);
  return rows;
}

// ---- Keys --------------------------------------------------------------------------------------

struct Tile {
  int first;  // of the list
  int count;
  bool far;
};

// Far keys, then near ones, in tiles of their own. Where tiles begin depends on the list alone.
template <int kTileKeys>
struct KeyList {
  const uint32_t* rows;
  const uint32_t* positions;
  int far;
  int near;  // not those behind all queries of the thread block
  int far_tiles;
  int tiles;

  __device__ Tile At(int tile) const {
    if (tile < far_tiles) {
      return {tile * kTileKeys, min(kTileKeys, far - tile * kTileKeys), true};
    }
    const int first = (tile - far_tiles) * kTileKeys;
    return {far + first, min(kTileKeys, near - first), false};
  }
};

// How many of ascending positions are at most `last`. By whole warps.
__device__ inline int CountUpTo(const uint32_t* positions, int count, uint32_t last) {
  int begin = 0, end = count;  // the answer is in [begin, end]
  while (begin < end) {
    const int step = (end - begin + kWarp - 1) / kWarp;
    const int64_t probe = begin + int64_t{step} * (threadIdx.x % kWarp + 1) - 1;
    const bool reaches = probe < end && positions[probe] <= last;
    begin += __popc(__ballot_sync(kAllLanes, reaches)) * step;
    end = min(begin + step - 1, end);
  }
  return begin;
}

template <int kTileKeys>
__device__ __forceinline__ KeyList<kTileKeys> ListOf(const Task& task, const AttentionBlock& block,
                                                     const Rows& rows) {
  KeyList<kTileKeys> list;
  list.rows = task.args.key_rows + block.first_key;
  list.positions = task.args.key_positions + block.first_key;
  list.far = static_cast<int>(block.far_keys);
  list.near = CountUpTo(list.positions + block.far_keys, static_cast<int>(block.near_keys),
                        rows.Position(rows.count - 1, task.group));
  list.far_tiles = (list.far + kTileKeys - 1) / kTileKeys;
  list.tiles = list.far_tiles + (list.near + kTileKeys - 1) / kTileKeys;
  return list;
}

// Row numbers have 32 bits, a page may have more rows than that.
__device__ __forceinline__ uint32_t PageOf(const KeyRows& rows, uint32_t row) {
  return rows.page_rows > 0xffffffff ? 0 : row / static_cast<uint32_t>(rows.page_rows);
}

// From a page's first row of keys, or values, to a row's slice.
__device__ __forceinline__ int64_t SliceOffset(const KeyRows& rows, uint32_t row_in_page,
                                               int slice_bytes) {
  return int64_t{row_in_page} * rows.row_stride + int64_t{blockIdx.y} * slice_bytes;
}

}  // namespace longspan::cuda::prefill

#endif  // LONGSPAN_KERNELS_CUDA_PREFILL_ATTENTION_KEYS_CUH_
