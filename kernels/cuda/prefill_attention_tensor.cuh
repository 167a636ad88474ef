#ifndef LONGSPAN_KERNELS_CUDA_PREFILL_ATTENTION_TENSOR_CUH_
#define LONGSPAN_KERNELS_CUDA_PREFILL_ATTENTION_TENSOR_CUH_

#include <cuda_bf16.h>
#include <cuda_runtime.h>

#include <cstddef>
#include <cstdint>

#include "kernels/cuda/async_copy.cuh"
#include "kernels/cuda/numbers.cuh"
#include "kernels/cuda/prefill_attention_fragments.cuh"
#include "kernels/cuda/prefill_attention_keys.cuh"
#include "kernels/cuda/prefill_attention_warpgroup.cuh"
#include "kernels/cuda/rope.cuh"

// Prefill attention of bfloat16 keys on tensor cores, after FlashAttention-2 (arXiv 2307.08691). A
// thread block has 256 rows, of all heads of a group, so that each tile of keys is gathered and
// rotated once for all of them. Each warp keeps the output and the scores of 32 rows in registers.
// On sm_90a four warps multiply together, and while they compute the weights of half of their rows
// the other half's products run (FlashAttention-3, arXiv 2407.08608).
//
// While tile t is computed, the keys of t + 1 are rotated in shared memory, the keys of t + 2 and
// the values of t + 1 arrive there, as do the pages of the rows of t + 3 and the row numbers of
// t + 4. All of it is copied asynchronously, so that it takes no registers, and there is one
// barrier a tile.
//
// Rows of fp8_e4m3 arrive beside the tiles, values as early as keys, and become bfloat16 there when
// keys are rotated.
namespace longspan::cuda::prefill {

template <typename T, int kHeadDim>
struct TensorTiling {
  static constexpr bool kFp8 = kIsFp8<T>;
  static constexpr int kDim = kHeadDim;
  static constexpr int kWarps = 8;
  static constexpr int kThreads = kWarps * kWarp;
  static constexpr int kRows = kWarps * kWarpRows;
  static constexpr int kRowBytes = kDim * 2;  // of a KV head's slice, as it is multiplied
  static constexpr int kSliceBytes = kDim * static_cast<int>(sizeof(T));  // as it is stored
  static constexpr int kSlicePieces = kSliceBytes / 16;

  static constexpr int kKeyStages = kFp8 ? 2 : 3;
  static constexpr int kValueStages = 2;
  static constexpr int kListStages = 8;
  static constexpr int kTileBytes = kTileKeys * kRowBytes;

  // A lane turns two neighbouring pairs of dimensions.
  static constexpr int kLanes = kDim / 4;         // of a row
  static constexpr int kTurned = kWarp / kLanes;  // rows at once
};

// What a tile's rows are, and where. A row becomes the row in its page when its page is looked up.
struct ListStage {
  const std::byte* pages[kTileKeys];
  uint32_t rows[kTileKeys];
  uint32_t positions[kTileKeys];
};

// Rows as they arrive, where they are not of bfloat16.
template <typename P, bool kFp8 = P::kFp8>
struct RawStages {};
template <typename P>
struct RawStages<P, true> {
  static constexpr int kBytes = kTileKeys * P::kSliceBytes;
  std::byte raw_keys[2][kBytes];
  std::byte raw_values[2][kBytes];
};

template <typename P>
struct alignas(kSwizzleBytes) TensorShared : RawStages<P> {
  std::byte queries[P::kRows * P::kRowBytes];
  std::byte keys[P::kKeyStages][P::kTileBytes];
  std::byte values[P::kValueStages][P::kTileBytes];
  ListStage lists[P::kListStages];
  // The same for all, and seldom needed: registers are dear.
  Rows rows;
  KeyList<kTileKeys> list;

  __device__ ListStage& List(int tile) { return lists[tile % P::kListStages]; }
  __device__ std::byte* Keys(int tile) { return keys[tile % P::kKeyStages]; }
  __device__ std::byte* Values(int tile) { return values[tile % P::kValueStages]; }
  // Where rows arrive.
  __device__ std::byte* ArrivingKeys(int tile) {
    if constexpr (P::kFp8) {
      return this->raw_keys[tile % 2];
    } else {
      return Keys(tile);
    }
  }
  __device__ std::byte* ArrivingValues(int tile) {
    if constexpr (P::kFp8) {
      return this->raw_values[tile % 2];
    } else {
      return Values(tile);
    }
  }
};

// ---- Gathering ---------------------------------------------------------------------------------

template <int kBytes>
__device__ __forceinline__ void CopyWordAsync(void* to, const void* from, bool present) {
  const auto address = static_cast<unsigned>(__cvta_generic_to_shared(to));
  asm volatile("cp.async.ca.shared.global [%0], [%1], %2, %3;\n" ::"r"(address), "l"(from),
               "n"(kBytes), "r"(present ? kBytes : 0)
               : "memory");
}

template <typename P>
__device__ __forceinline__ void CopyList(const KeyList<kTileKeys>& list, int tile,
                                         TensorShared<P>* shared) {
  const int i = threadIdx.x;
  if (tile >= list.tiles || i >= kTileKeys) return;
  const Tile keys = list.At(tile);
  ListStage& stage = shared->List(tile);
  CopyWordAsync<4>(&stage.rows[i], list.rows + keys.first + i, i < keys.count);
  CopyWordAsync<4>(&stage.positions[i], list.positions + keys.first + i, i < keys.count);
}

// The thread reads what it has copied itself.
template <typename P>
__device__ __forceinline__ void CopyPages(const KeyRows& rows, const KeyList<kTileKeys>& list,
                                          int tile, TensorShared<P>* shared) {
  const int i = threadIdx.x;
  if (tile >= list.tiles || i >= kTileKeys) return;
  ListStage& stage = shared->List(tile);
  const uint32_t row = stage.rows[i];
  const uint32_t page = PageOf(rows, row);
  stage.rows[i] = row - page * static_cast<uint32_t>(rows.page_rows);
  CopyWordAsync<8>(&stage.pages[i], rows.pages + page, i < list.At(tile).count);
}

// Keys or values. Rows past the end become zeros, for a weight of 0 would not silence a NaN.
template <typename P>
__device__ __forceinline__ void CopySlices(const KeyRows& rows, int64_t offset,
                                           const ListStage& stage, int count, std::byte* to) {
  constexpr int kSweepRows = P::kThreads / P::kSlicePieces;
  const int piece = threadIdx.x % P::kSlicePieces;
  offset += piece * 16;
#pragma unroll
  for (int sweep = 0; sweep < kTileKeys / kSweepRows; ++sweep) {
    const int row = static_cast<int>(threadIdx.x) / P::kSlicePieces + sweep * kSweepRows;
    const std::byte* from =
        stage.pages[row] + (offset + SliceOffset(rows, stage.rows[row], P::kSliceBytes));
    const int at = P::kFp8 ? row * P::kSliceBytes + piece * 16 : Swizzled<kTileKeys>(row, piece);
    CopyAsync(to + at, from, row < count);
  }
}

template <typename P>
__device__ __forceinline__ void CopyKeys(const KeyRows& rows, const KeyList<kTileKeys>& list,
                                         int tile, TensorShared<P>* shared) {
  if (tile >= list.tiles) return;
  CopySlices<P>(rows, rows.key_offset, shared->List(tile), list.At(tile).count,
                shared->ArrivingKeys(tile));
}

template <typename P>
__device__ __forceinline__ void CopyValues(const KeyRows& rows, const KeyList<kTileKeys>& list,
                                           int tile, TensorShared<P>* shared) {
  if (tile >= list.tiles) return;
  CopySlices<P>(rows, rows.value_offset, shared->List(tile), list.At(tile).count,
                shared->ArrivingValues(tile));
}

// Makes bfloat16 of a tile's rows, each warp its part.
template <typename P>
__device__ __forceinline__ void ConvertRows(const std::byte* raw, std::byte* to) {
  constexpr int kWarpPieces = kTileKeys / P::kWarps * P::kSlicePieces;
#pragma unroll
  for (int i = 0; i < kWarpPieces; i += kWarp) {
    const int index = static_cast<int>(threadIdx.x) / kWarp * kWarpPieces + i +
                      static_cast<int>(threadIdx.x) % kWarp;
    const int row = index / P::kSlicePieces, piece = index % P::kSlicePieces * 2;
    const auto numbers = *reinterpret_cast<const uint4*>(raw + index * 16);
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      // Lanes of different panels write different banks.
      const bool upper = (half ^ piece / kPanelPieces % 2) != 0;
      *reinterpret_cast<uint4*>(to + Swizzled<kTileKeys>(row, piece + (upper ? 1 : 0))) =
          Fp8ToBFloat16(upper ? uint2{numbers.z, numbers.w} : uint2{numbers.x, numbers.y});
    }
  }
}

// ---- Rotating ----------------------------------------------------------------------------------

__device__ __forceinline__ float2 TimesRotation(float2 a, float2 b) {
  return {a.x * b.x - a.y * b.y, a.y * b.x + a.x * b.y};
}

__device__ __forceinline__ uint32_t PackBFloat16(float low, float high) {
  const __nv_bfloat162 pair = __floats2bfloat162_rn(low, high);
  return *reinterpret_cast<const uint32_t*>(&pair);
}

// Turns the keys of a tile, each warp its part. Most positions follow the one before, whose angle
// then takes one more step of a single position: tables would be read as much as the keys are.
// `raw` are the same keys where they arrived.
template <typename P>
__device__ __forceinline__ void RotateKeys(const RopeTable& table, const ListStage& stage,
                                           const std::byte* raw, std::byte* keys) {
  constexpr int kKeys = kTileKeys / P::kWarps / P::kTurned;  // one after the other
  const int lane = threadIdx.x % kWarp;
  const int pair = lane % P::kLanes * 2;
  const int first =
      static_cast<int>(threadIdx.x) / kWarp * (kTileKeys / P::kWarps) + lane / P::kLanes * kKeys;
  const float4 step = __ldg(reinterpret_cast<const float4*>(table.fine + table.half + pair));
  float2 a, b;  // rotations of the two pairs
  uint32_t next = 0;
#pragma unroll
  for (int i = 0; i < kKeys; ++i) {
    const uint32_t position = stage.positions[first + i];
    if (i > 0 && position == next) {
      a = TimesRotation(a, {step.x, step.y});
      b = TimesRotation(b, {step.z, step.w});
    } else {
      a = Rotation(table, position, pair);
      b = Rotation(table, position, pair + 1);
    }
    next = position + 1;
    const int within = pair % 8 * 2;
    auto* low =
        reinterpret_cast<uint32_t*>(keys + Swizzled<kTileKeys>(first + i, pair / 8) + within);
    auto* high = reinterpret_cast<uint32_t*>(
        keys + Swizzled<kTileKeys>(first + i, (P::kDim / 2 + pair) / 8) + within);
    float ax, bx, ay, by;
    if constexpr (P::kFp8) {
      const std::byte* const from = raw + (first + i) * P::kSliceBytes + pair;
      const float2 x = Fp8ToFloats(*reinterpret_cast<const uint16_t*>(from));
      const float2 y = Fp8ToFloats(*reinterpret_cast<const uint16_t*>(from + P::kDim / 2));
      ax = x.x;
      bx = x.y;
      ay = y.x;
      by = y.y;
    } else {
      const uint32_t x = *low, y = *high;
      ax = __uint_as_float(x << 16);
      bx = __uint_as_float(x & 0xffff0000u);
      ay = __uint_as_float(y << 16);
      by = __uint_as_float(y & 0xffff0000u);
    }
    *low = PackBFloat16(ax * a.x - ay * a.y, bx * b.x - by * b.y);
    *high = PackBFloat16(ay * a.x + ax * a.y, by * b.x + bx * b.y);
  }
}

// A warp's queries, scaled and rotated.
template <typename P>
__device__ __forceinline__ void LoadQueries(const Task& task, const Rows& rows, bool far,
                                            std::byte* queries) {
  const PrefillAttentionArgs& args = task.args;
  const int lane = threadIdx.x % kWarp;
  const int pair = lane % P::kLanes * 2;
#pragma unroll 4
  for (int i = lane / P::kLanes; i < kWarpRows; i += P::kTurned) {
    const int row = WarpRow(static_cast<int>(threadIdx.x) / kWarp, i);
    float2 x = {0, 0}, y = {0, 0};
    if (row < rows.count) {
      const float* from = args.queries + rows.Head(row, task) * P::kDim + pair;
      x = __ldg(reinterpret_cast<const float2*>(from));
      y = __ldg(reinterpret_cast<const float2*>(from + P::kDim / 2));
    }
    const int64_t position =
        far ? args.far_position : int64_t{rows.Position(min(row, rows.count - 1), task.group)};
    const float2 a = Rotation(args.rope, position, pair);
    const float2 b = Rotation(args.rope, position, pair + 1);
    const int within = pair % 8 * 2;
    *reinterpret_cast<uint32_t*>(queries + Swizzled<P::kRows>(row, pair / 8) + within) =
        PackBFloat16((x.x * a.x - y.x * a.y) * task.scale, (x.y * b.x - y.y * b.y) * task.scale);
    *reinterpret_cast<uint32_t*>(queries + Swizzled<P::kRows>(row, (P::kDim / 2 + pair) / 8) +
                                 within) =
        PackBFloat16((y.x * a.x + x.x * a.y) * task.scale, (y.y * b.x + x.y * b.y) * task.scale);
  }
  __syncwarp();
}

// ---- Softmax -----------------------------------------------------------------------------------

// Scores of keys past the tile's end, or behind a query, become -inf.
__device__ __forceinline__ void Mask(const Task& task, const Rows& rows, const Tile& tile,
                                     const uint32_t* positions, int m, Scores* scores) {
  const int lane = threadIdx.x % kWarp;
  uint32_t last[2];
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const int row = WarpRow(static_cast<int>(threadIdx.x) / kWarp, m * 16 + half * 8 + lane / 4);
    last[half] = tile.far ? 0xffffffffu : rows.Position(row, task.group);
  }
#pragma unroll
  for (int n = 0; n < kTileKeys / 8; ++n) {
#pragma unroll
    for (int e = 0; e < 2; ++e) {
      const int key = n * 8 + lane % 4 * 2 + e;
      const uint32_t position = positions[key];
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        if (key >= tile.count || position > last[half]) {
          scores->of[m][n][half * 2 + e] = -kInfinity;
        }
      }
    }
  }
}

// Maxima and sums of a lane's rows, lane / 4 and 8 more of each 16. Sums are of its own keys.
struct Statistics {
  float max[kWarpTiles][2];
  float sum[kWarpTiles][2];
};

// Scores become weights.
template <int kDim>
__device__ __forceinline__ void OnlineSoftmax(int m, Scores* scores, Statistics* statistics,
                                              Output<kDim>* output) {
  float scale[2];
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    float max = statistics->max[m][half];
#pragma unroll
    for (int n = 0; n < kTileKeys / 8; ++n) {
      max = fmaxf(max, fmaxf(scores->of[m][n][half * 2], scores->of[m][n][half * 2 + 1]));
    }
    max = fmaxf(max, __shfl_xor_sync(kAllLanes, max, 1));
    max = fmaxf(max, __shfl_xor_sync(kAllLanes, max, 2));
    const float shift = Shift(max);
    scale[half] = Exp2(statistics->max[m][half] - shift);
    statistics->max[m][half] = max;
    float sum = 0;
#pragma unroll
    for (int n = 0; n < kTileKeys / 8; ++n) {
#pragma unroll
      for (int e = half * 2; e < half * 2 + 2; ++e) {
        scores->of[m][n][e] = Exp2(scores->of[m][n][e] - shift);
        sum += scores->of[m][n][e];
      }
    }
    statistics->sum[m][half] = statistics->sum[m][half] * scale[half] + sum;
  }
  // After a few tiles maxima seldom rise, and times 1 changes nothing.
  if (!__any_sync(kAllLanes, scale[0] != 1 || scale[1] != 1)) return;
#pragma unroll
  for (int n = 0; n < kDim / 8; ++n) {
#pragma unroll
    for (int e = 0; e < 4; ++e) output->of[m][n][e] *= scale[e / 2];
  }
}

// ---- One tile ----------------------------------------------------------------------------------

template <typename P>
__device__ __forceinline__ void Attend(const Task& task, int t, TensorShared<P>* shared,
                                       Statistics* statistics, Output<P::kDim>* output) {
  const Rows& rows = shared->rows;
  const Tile tile = shared->list.At(t);
  const uint32_t* positions = shared->List(t).positions;
  const bool masked = tile.count < kTileKeys ||
                      (!tile.far && positions[kTileKeys - 1] > rows.Position(0, task.group));
  Scores scores;
  if constexpr (kWarpgroups) {
    // While the weights of one half are computed, the other one multiplies.
    uint32_t packed[kWarpTiles][kTileKeys / 16][4];
#pragma unroll
    for (int m = 0; m < kWarpTiles; ++m) {
      MultiplyAsync<P::kRows, P::kDim>(m, shared->queries, shared->Keys(t), &scores);
    }
#pragma unroll
    for (int m = 0; m < kWarpTiles; ++m) {
      AwaitProducts<1>();
      Pin(scores.of[m]);
      if (masked) Mask(task, rows, tile, positions, m, &scores);
      OnlineSoftmax(m, &scores, statistics, output);
#pragma unroll
      for (int step = 0; step < kTileKeys / 16; ++step) {
        PackWeights(scores, m, step, packed[m][step]);
      }
      AddWeightedAsync(m, packed[m], shared->Values(t), output);
    }
    AwaitProducts<0>();
#pragma unroll
    for (int m = 0; m < kWarpTiles; ++m) {
      Pin(packed[m]);
      Pin(output->of[m]);
    }
  } else {
    Multiply<P::kRows, P::kDim>(shared->queries, shared->Keys(t), &scores);
#pragma unroll
    for (int m = 0; m < kWarpTiles; ++m) {
      if (masked) Mask(task, rows, tile, positions, m, &scores);
      OnlineSoftmax(m, &scores, statistics, output);
    }
    AddWeighted(scores, shared->Values(t), output);
  }
}

// ---- The kernel --------------------------------------------------------------------------------

template <typename Out, int kDim>
__device__ __forceinline__ void Finish(const Task& task, const Rows& rows,
                                       const Statistics& statistics, const Output<kDim>& output) {
  const int lane = threadIdx.x % kWarp;
#pragma unroll
  for (int m = 0; m < kWarpTiles; ++m) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      float sum = statistics.sum[m][half];
      sum += __shfl_xor_sync(kAllLanes, sum, 1);
      sum += __shfl_xor_sync(kAllLanes, sum, 2);
      const int row = WarpRow(static_cast<int>(threadIdx.x) / kWarp, m * 16 + half * 8 + lane / 4);
      if (row >= rows.count) continue;
      const int64_t head = rows.Head(row, task);
      const float factor = sum == 0 ? 0.0f : 1 / sum;
      Out* to = static_cast<Out*>(task.args.output) + head * kDim + lane % 4 * 2;
#pragma unroll
      for (int n = 0; n < kDim / 8; ++n) {
        const float pair[2] = {output.of[m][n][half * 2] * factor,
                               output.of[m][n][half * 2 + 1] * factor};
        StoreFloats(pair, to + n * 8);
      }
      if (task.args.lse != nullptr && lane % 4 == 0) {
        task.args.lse[head] = sum == 0 ? -kInfinity : (statistics.max[m][half] + log2f(sum)) * kLn2;
      }
    }
  }
}

template <typename P, typename Out>
__global__ void __launch_bounds__(P::kThreads, 1)
    TensorAttentionKernel(const __grid_constant__ Task task) {
  auto* shared = DynamicShared<TensorShared<P>>();
  const PrefillAttentionArgs& args = task.args;
  const AttentionBlock block = args.blocks[blockIdx.z];
  {
    const Rows own = RowsOf<P::kRows>(task, block);
    if (own.count <= 0) return;
    const KeyList<kTileKeys> keys = ListOf<kTileKeys>(task, block, own);
    if (threadIdx.x == 0) {
      shared->rows = own;
      shared->list = keys;
    }
    __syncthreads();
  }
  const Rows& rows = shared->rows;
  const KeyList<kTileKeys>& list = shared->list;
  const int warp = static_cast<int>(threadIdx.x) / kWarp;
  // Of bfloat16 the tile's keys are rotated in place, and its values ready.
  const auto rotate = [&](int tile) {
    const std::byte* const raw = shared->ArrivingKeys(tile);
    if constexpr (P::kFp8) {
      if (tile >= list.tiles) return;
      ConvertRows<P>(shared->ArrivingValues(tile), shared->Values(tile));
      if (args.far_is_apart && tile < list.far_tiles) ConvertRows<P>(raw, shared->Keys(tile));
    }
    if (tile >= list.tiles || (args.far_is_apart && tile < list.far_tiles)) return;
    RotateKeys<P>(args.rope, shared->List(tile), raw, shared->Keys(tile));
  };

  // What the tiles before tile 0 would have done.
#pragma unroll
  for (int tile = 0; tile < 4; ++tile) CopyList(list, tile, shared);
  CommitCopies();
  AwaitCopies<0>();
#pragma unroll
  for (int tile = 0; tile < 3; ++tile) CopyPages(args.rows, list, tile, shared);
  CommitCopies();
  AwaitCopies<0>();
  __syncthreads();
  CopyKeys(args.rows, list, 0, shared);
  CopyValues(args.rows, list, 0, shared);
  CopyKeys(args.rows, list, 1, shared);
  if constexpr (P::kFp8) CopyValues(args.rows, list, 1, shared);
  CommitCopies();
  LoadQueries<P>(task, rows, args.far_is_apart && list.far_tiles > 0, shared->queries);
  AwaitCopies<0>();
  __syncthreads();
  rotate(0);

  Output<P::kDim> output = {};
  Statistics statistics;
#pragma unroll
  for (int m = 0; m < kWarpTiles; ++m) {
    statistics.max[m][0] = statistics.max[m][1] = -kInfinity;
    statistics.sum[m][0] = statistics.sum[m][1] = 0;
  }
  // The same for four warps that multiply together.
  const bool has_rows = WarpRow(kWarpgroups ? warp / 4 * 4 : warp, 0) < rows.count;
#pragma unroll 1
  for (int t = 0; t < list.tiles; ++t) {
    AwaitCopies<0>();
    PublishShared();
    __syncthreads();
    CopyList(list, t + 4, shared);
    CopyPages(args.rows, list, t + 3, shared);
    CopyKeys(args.rows, list, t + 2, shared);
    CopyValues(args.rows, list, P::kFp8 ? t + 2 : t + 1, shared);
    CommitCopies();
    if (t == list.far_tiles && t > 0 && args.far_is_apart) {
      LoadQueries<P>(task, rows, false, shared->queries);
      if constexpr (kWarpgroups) {  // else each warp reads its own
        PublishShared();
        __syncthreads();
      }
    }
    // Two warps share a scheduler: while one of them rotates, the other one multiplies.
    if (warp < P::kWarps / 2) rotate(t + 1);
    if (has_rows) Attend(task, t, shared, &statistics, &output);
    if (warp >= P::kWarps / 2) rotate(t + 1);
  }
  Finish<Out>(task, rows, statistics, output);
}

}  // namespace longspan::cuda::prefill

#endif  // LONGSPAN_KERNELS_CUDA_PREFILL_ATTENTION_TENSOR_CUH_
