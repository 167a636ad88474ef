#ifndef LONGSPAN_KERNELS_CUDA_PREFILL_ATTENTION_SIMPLE_CUH_
#define LONGSPAN_KERNELS_CUDA_PREFILL_ATTENTION_SIMPLE_CUH_

#include <cuda_runtime.h>

#include <cstddef>
#include <cstdint>

#include "kernels/cuda/numbers.cuh"
#include "kernels/cuda/prefill_attention_keys.cuh"
#include "kernels/cuda/rope.cuh"

// Prefill attention in float32 throughout, for float32 keys and for head dimensions and devices
// that the tensor core kernel is not for.
namespace longspan::cuda::prefill {

template <typename T, int kHeadDim>
struct SimpleTiling {
  using Number = T;
  static constexpr int kDim = kHeadDim;
  static constexpr int kThreads = 128;
  static constexpr int kRows = 32;
  static constexpr int kKeys = kDim > 128 ? 16 : 32;  // of a tile
  static constexpr int kStride = kDim + 4;            // neighbouring rows in different banks
  // A thread computes four rows, their scores with every kColumns-th key and every kColumns-th
  // dimension of their output.
  static constexpr int kThreadRows = 4;
  static constexpr int kColumns = kThreads / (kRows / kThreadRows);
  static constexpr int kThreadKeys = kKeys / kColumns;
  static constexpr int kThreadDims = kDim / kColumns;
  static constexpr int kRowLanes = kThreads / kRows;  // of the softmax
};

template <typename P>
struct alignas(16) SimpleShared {
  float queries[P::kRows][P::kStride];
  float keys[P::kKeys][P::kStride];
  float values[P::kKeys][P::kDim];
  float scores[P::kRows][P::kKeys + 1];
  float max[P::kRows], sum[P::kRows], scale[P::kRows];
  uint32_t positions[P::kKeys];
};

// Four neighbouring pairs, turned.
__device__ __forceinline__ void Rotate(const RopeTable& table, int64_t position, int pair,
                                       float (&x)[4], float (&y)[4]) {
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const float2 rotation = Rotation(table, position, pair + i);
    const float a = x[i], b = y[i];
    x[i] = a * rotation.x - b * rotation.y;
    y[i] = b * rotation.x + a * rotation.y;
  }
}

template <typename P>
__device__ __forceinline__ void LoadSimpleQueries(const Task& task, const Rows& rows, bool far,
                                                  SimpleShared<P>* shared) {
  constexpr int kFours = P::kDim / 8;
  for (int i = threadIdx.x; i < P::kRows * kFours; i += P::kThreads) {
    const int row = i / kFours, pair = i % kFours * 4;
    float x[4] = {}, y[4] = {};
    if (row < rows.count) {
      const float* from = task.args.queries + rows.Head(row, task) * P::kDim + pair;
      LoadFloats(from, x);
      LoadFloats(from + P::kDim / 2, y);
      Rotate(task.args.rope, far ? task.args.far_position : int64_t{rows.Position(row, task.group)},
             pair, x, y);
    }
#pragma unroll
    for (int e = 0; e < 4; ++e) {
      shared->queries[row][pair + e] = x[e] * task.scale;
      shared->queries[row][P::kDim / 2 + pair + e] = y[e] * task.scale;
    }
  }
}

// Keys and values past the tile's end are zeros, as a weight of 0 would not silence a NaN.
template <typename P>
__device__ __forceinline__ void LoadTile(const Task& task, const KeyList<P::kKeys>& list,
                                         const Tile& tile, bool rotated, SimpleShared<P>* shared) {
  using T = typename P::Number;
  constexpr int kFours = P::kDim / 8;
  const KeyRows& rows = task.args.rows;
  for (int i = threadIdx.x; i < P::kKeys * kFours; i += P::kThreads) {
    const int key = i / kFours, pair = i % kFours * 4;
    float x[4] = {}, y[4] = {}, v[4] = {}, w[4] = {};
    if (key < tile.count) {
      const uint32_t row = list.rows[tile.first + key];
      const uint32_t position = list.positions[tile.first + key];
      const uint32_t page = PageOf(rows, row);
      const std::byte* slice =
          rows.pages[page] + SliceOffset(rows, row - page * static_cast<uint32_t>(rows.page_rows),
                                         P::kDim * static_cast<int>(sizeof(T)));
      const T* keys = reinterpret_cast<const T*>(slice + rows.key_offset) + pair;
      const T* values = reinterpret_cast<const T*>(slice + rows.value_offset) + pair;
      LoadFloats(keys, x);
      LoadFloats(keys + P::kDim / 2, y);
      LoadFloats(values, v);
      LoadFloats(values + P::kDim / 2, w);
      if (rotated) Rotate(task.args.rope, position, pair, x, y);
      if (pair == 0) shared->positions[key] = position;
    }
    StoreFloats(x, &shared->keys[key][pair]);
    StoreFloats(y, &shared->keys[key][P::kDim / 2 + pair]);
    StoreFloats(v, &shared->values[key][pair]);
    StoreFloats(w, &shared->values[key][P::kDim / 2 + pair]);
  }
}

template <typename P>
__device__ __forceinline__ void ComputeScores(const Task& task, const Rows& rows, const Tile& tile,
                                              SimpleShared<P>* shared) {
  const int first = static_cast<int>(threadIdx.x) / P::kColumns * P::kThreadRows;
  const int column = threadIdx.x % P::kColumns;
  float sums[P::kThreadRows][P::kThreadKeys] = {};
#pragma unroll 2
  for (int d = 0; d < P::kDim; d += 4) {
    float key[P::kThreadKeys][4];
#pragma unroll
    for (int k = 0; k < P::kThreadKeys; ++k) {
      LoadFloats(&shared->keys[column + k * P::kColumns][d], key[k]);
    }
#pragma unroll
    for (int r = 0; r < P::kThreadRows; ++r) {
      float query[4];
      LoadFloats(&shared->queries[first + r][d], query);
#pragma unroll
      for (int k = 0; k < P::kThreadKeys; ++k) {
#pragma unroll
        for (int e = 0; e < 4; ++e) sums[r][k] += query[e] * key[k][e];
      }
    }
  }
#pragma unroll
  for (int r = 0; r < P::kThreadRows; ++r) {
    const uint32_t last = tile.far ? 0xffffffffu : rows.Position(first + r, task.group);
#pragma unroll
    for (int k = 0; k < P::kThreadKeys; ++k) {
      const int key = column + k * P::kColumns;
      const bool seen = key < tile.count && shared->positions[key] <= last;
      shared->scores[first + r][key] = seen ? sums[r][k] : -kInfinity;
    }
  }
}

// Scores become weights; max, sum and scale are brought up to date. A row's lanes are neighbours.
template <typename P>
__device__ __forceinline__ void SimpleSoftmax(SimpleShared<P>* shared) {
  const int row = static_cast<int>(threadIdx.x) / P::kRowLanes;
  const int lane = threadIdx.x % P::kRowLanes;
  const float old_max = shared->max[row];
  float max = old_max;
  for (int k = lane; k < P::kKeys; k += P::kRowLanes) max = fmaxf(max, shared->scores[row][k]);
#pragma unroll
  for (int width = 1; width < P::kRowLanes; width *= 2) {
    max = fmaxf(max, __shfl_xor_sync(kAllLanes, max, width));
  }
  const float shift = Shift(max);
  float sum = 0;
  for (int k = lane; k < P::kKeys; k += P::kRowLanes) {
    const float weight = exp2f(shared->scores[row][k] - shift);
    shared->scores[row][k] = weight;
    sum += weight;
  }
#pragma unroll
  for (int width = 1; width < P::kRowLanes; width *= 2) {
    sum += __shfl_xor_sync(kAllLanes, sum, width);
  }
  __syncwarp();  // all lanes have read the old maximum
  if (lane != 0) return;
  const float scale = exp2f(old_max - shift);
  shared->max[row] = max;
  shared->sum[row] = shared->sum[row] * scale + sum;
  shared->scale[row] = scale;
}

template <typename P>
__device__ __forceinline__ void AddValues(const SimpleShared<P>& shared,
                                          float (&output)[P::kThreadRows][P::kThreadDims]) {
  const int first = static_cast<int>(threadIdx.x) / P::kColumns * P::kThreadRows;
  const int column = threadIdx.x % P::kColumns;
#pragma unroll
  for (int r = 0; r < P::kThreadRows; ++r) {
    const float scale = shared.scale[first + r];
#pragma unroll
    for (int d = 0; d < P::kThreadDims; ++d) output[r][d] *= scale;
  }
#pragma unroll 2
  for (int k = 0; k < P::kKeys; ++k) {
    float weights[P::kThreadRows];
#pragma unroll
    for (int r = 0; r < P::kThreadRows; ++r) weights[r] = shared.scores[first + r][k];
#pragma unroll
    for (int d = 0; d < P::kThreadDims; ++d) {
      const float value = shared.values[k][column + d * P::kColumns];
#pragma unroll
      for (int r = 0; r < P::kThreadRows; ++r) output[r][d] += weights[r] * value;
    }
  }
}

template <typename P, typename Out>
__device__ __forceinline__ void FinishSimple(
    const Task& task, const Rows& rows, const SimpleShared<P>& shared,
    const float (&output)[P::kThreadRows][P::kThreadDims]) {
  const int first = static_cast<int>(threadIdx.x) / P::kColumns * P::kThreadRows;
  const int column = threadIdx.x % P::kColumns;
#pragma unroll
  for (int r = 0; r < P::kThreadRows; ++r) {
    if (first + r >= rows.count) break;
    const int64_t head = rows.Head(first + r, task);
    const float sum = shared.sum[first + r];
    Out* to = static_cast<Out*>(task.args.output) + head * P::kDim + column;
#pragma unroll
    for (int d = 0; d < P::kThreadDims; ++d) {
      to[d * P::kColumns] = FromFloat<Out>(sum == 0 ? 0.0f : output[r][d] / sum);
    }
    if (task.args.lse != nullptr && column == 0) {
      task.args.lse[head] = sum == 0 ? -kInfinity : (shared.max[first + r] + log2f(sum)) * kLn2;
    }
  }
}

template <typename P, typename Out>
__global__ void __launch_bounds__(P::kThreads)
    SimpleAttentionKernel(const __grid_constant__ Task task) {
  auto* shared = DynamicShared<SimpleShared<P>>();
  const AttentionBlock block = task.args.blocks[blockIdx.z];
  const Rows rows = RowsOf<P::kRows>(task, block);
  if (rows.count <= 0) return;
  const KeyList<P::kKeys> list = ListOf<P::kKeys>(task, block, rows);
  const bool far_is_apart = task.args.far_is_apart;
  LoadSimpleQueries(task, rows, far_is_apart && list.far_tiles > 0, shared);
  if (threadIdx.x < P::kRows) {
    shared->max[threadIdx.x] = -kInfinity;
    shared->sum[threadIdx.x] = 0;
  }
  float output[P::kThreadRows][P::kThreadDims] = {};
  for (int t = 0; t < list.tiles; ++t) {
    const Tile tile = list.At(t);
    __syncthreads();  // all are done with the tile before
    if (t == list.far_tiles && t > 0 && far_is_apart) LoadSimpleQueries(task, rows, false, shared);
    LoadTile(task, list, tile, !(tile.far && far_is_apart), shared);
    __syncthreads();
    ComputeScores(task, rows, tile, shared);
    __syncthreads();
    SimpleSoftmax(shared);
    __syncthreads();
    AddValues(*shared, output);
  }
  __syncthreads();
  FinishSimple<P, Out>(task, rows, *shared, output);
}

}  // namespace longspan::cuda::prefill

#endif  // LONGSPAN_KERNELS_CUDA_PREFILL_ATTENTION_SIMPLE_CUH_
