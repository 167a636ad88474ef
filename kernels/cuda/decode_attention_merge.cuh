#ifndef LONGSPAN_KERNELS_CUDA_DECODE_ATTENTION_MERGE_CUH_
#define LONGSPAN_KERNELS_CUDA_DECODE_ATTENTION_MERGE_CUH_

#include <cuda_runtime.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>

#include "kernels/cuda/async_copy.cuh"
#include "kernels/cuda/decode_attention_share.cuh"
#include "kernels/cuda/numbers.cuh"
#include "kernels/cuda/sum_across.cuh"

// How decode attention merges what was found apart, always in the same order: a block its teams,
// and the last block of a row and KV head to finish all splits.
namespace longspan::cuda::decode {

constexpr float kLn2 = 0.6931471805599453f;
// The block's memory once no team needs its stages: [kTeams, kGroup, kMergeStride] and
// [kTeams, kGroup].
template <typename P>
struct MergeMemory {
  float* outputs;
  Statistics* statistics;

  explicit __device__ MergeMemory(std::byte* memory)
      : outputs(reinterpret_cast<float*>(memory)),
        statistics(
            reinterpret_cast<Statistics*>(outputs + P::kTeams * P::kGroup * P::kMergeStride)) {}
};

__device__ __forceinline__ void Add(float4 values, float scale, float4* sum) {
  sum->x += scale * values.x;
  sum->y += scale * values.y;
  sum->z += scale * values.z;
  sum->w += scale * values.w;
}

// Merges the teams of a block into its split's partial.
template <typename P>
__device__ __forceinline__ void StorePartial(int group, const MergeMemory<P>& memory,
                                             const Partials& partials) {
  constexpr int kColumns = P::kDim / 4;  // of a head
  const int64_t first = int64_t{blockIdx.y} * group;
  auto* outputs = reinterpret_cast<float4*>(partials.outputs + first * P::kDim);
  for (int column = threadIdx.x; column < group * kColumns; column += P::kThreads) {
    const int head = column / kColumns;
    float max = -kInfinity;
#pragma unroll
    for (int t = 0; t < P::kTeams; ++t) {
      max = fmaxf(max, memory.statistics[t * P::kGroup + head].max);
    }
    float sum = 0;
    float4 output = {0, 0, 0, 0};
#pragma unroll
    for (int t = 0; t < P::kTeams; ++t) {
      const int at = t * P::kGroup + head;
      const Statistics team = memory.statistics[at];
      const float scale = Exp2(team.max - Shift(max));
      const auto* row = reinterpret_cast<const float4*>(memory.outputs + at * P::kMergeStride);
      Add(row[column % kColumns], scale, &output);
      sum += scale * team.sum;
    }
    outputs[column] = output;
    if (column % kColumns == 0) partials.statistics[first + head] = {max, sum};
  }
}

// Of a head and of the splits of a lane; of none past the last of both.
struct SplitStatistics {
  static constexpr int kRounds = kMaxSplits / kWarp;
  float2 of[kRounds];  // as Statistics
};

// Other blocks wrote the partials, so they are read past the L1 cache, here and below.
__device__ __forceinline__ SplitStatistics LoadStatistics(const Partials& partials, int head,
                                                          int group) {
  const auto* from = reinterpret_cast<const float2*>(partials.statistics) + head;
  SplitStatistics loaded;
#pragma unroll
  for (int i = 0; i < SplitStatistics::kRounds; ++i) {
    const int split = i * kWarp + static_cast<int>(threadIdx.x) % kWarp;
    loaded.of[i] = {-kInfinity, 0};
    if (split < static_cast<int>(gridDim.y) && head < group) {
      loaded.of[i] = __ldcg(from + split * group);
    }
  }
  return loaded;
}

// Writes the weights [splits, kGroup] of splits in the row's result, and its lse. A warp takes a
// head, of whose first one it is given what it loaded.
template <typename P>
__device__ __forceinline__ void WeighSplits(const Job& job, int64_t first_head,
                                            const Partials& partials, SplitStatistics statistics,
                                            float* weights) {
  constexpr int kRounds = SplitStatistics::kRounds;
  const int lane = threadIdx.x % kWarp;
  const int first = threadIdx.x / kWarp;
  const int group = job.group();
#pragma unroll 1
  for (int head = first; head < group; head += P::kThreads / kWarp) {
    if (head != first) statistics = LoadStatistics(partials, head, group);
    float2(&own)[kRounds] = statistics.of;
    float max = -kInfinity, sums[1] = {0};
#pragma unroll
    for (int i = 0; i < kRounds; ++i) max = fmaxf(max, own[i].x);
#pragma unroll
    for (int offset = 1; offset < kWarp; offset *= 2) {
      max = fmaxf(max, __shfl_xor_sync(kAllLanes, max, offset));
    }
#pragma unroll
    for (int i = 0; i < kRounds; ++i) {
      own[i].x = Exp2(own[i].x - Shift(max));
      sums[0] += own[i].x * own[i].y;
    }
    SumAcross<1, kWarp>(sums);
    const float sum = sums[0];
    const float inverse = sum == 0 ? 0.0f : 1 / sum;
#pragma unroll
    for (int i = 0; i < kRounds; ++i) {
      weights[(i * kWarp + lane) * P::kGroup + head] = own[i].x * inverse;
    }
    if (lane == 0) {
      job.args.lse[first_head + head] = sum == 0 ? -kInfinity : (max + log2f(sum)) * kLn2;
    }
  }
}

// The block's memory once its partial is stored: weights [kMaxSplits, kGroup], and of as many
// splits as there is room for four dimensions a thread.
template <typename P>
struct SplitMemory {
  static constexpr int kColumns = std::min(P::kThreads, P::kDim / 4 * P::kGroup);
  static constexpr int kWeightsBytes = kMaxSplits * P::kGroup * static_cast<int>(sizeof(float));
  static constexpr int kSplits =
      std::min(kMaxSplits,
               (P::kSharedBytes - kWeightsBytes) / (kColumns * static_cast<int>(sizeof(float4))));
  static_assert(kSplits >= 1);

  float* weights;
  float4* columns;  // [kSplits, kColumns]

  explicit __device__ SplitMemory(std::byte* memory)
      : weights(reinterpret_cast<float*>(memory)),
        columns(reinterpret_cast<float4*>(memory + kWeightsBytes)) {}
};

// Starts the copy of a thread's column of some splits: all are under way at once, and wait in no
// registers.
template <typename P>
__device__ __forceinline__ void CopyColumn(const Partials& partials, int columns, int column,
                                           int first, int splits, const SplitMemory<P>& memory) {
  const auto* from = reinterpret_cast<const float4*>(partials.outputs) + first * columns + column;
  float4* to = memory.columns + column % SplitMemory<P>::kColumns;
#pragma unroll 8
  for (int i = 0; i < splits; ++i) {
    CopyAsync(to + i * SplitMemory<P>::kColumns, from + i * columns, true);
  }
}

__device__ __forceinline__ void PutOutput(const DecodeAttentionArgs& args, int64_t at,
                                          float4 output) {
  const float values[4] = {output.x, output.y, output.z, output.w};
  if (args.output_dtype == DType::kFloat32) {
    StoreFloats(values, static_cast<float*>(args.output) + at);
  } else {
    StoreFloats(values, static_cast<__nv_bfloat16*>(args.output) + at);
  }
}

// By the last block of a row and KV head. The first copies are under way while weights are found,
// whose loads go first, for the copies fill the way to the multiprocessor for longer than they
// take.
template <typename P>
__device__ __forceinline__ void MergePartials(const Job& job, int row, const Partials& partials,
                                              const SplitMemory<P>& memory) {
  using Memory = SplitMemory<P>;
  const int splits = gridDim.y;
  const int group = job.group();
  const int columns = group * (P::kDim / 4);
  const int64_t first_head = row * job.args.shape.heads + int64_t{blockIdx.x} * group;
  const int64_t first_output = first_head * P::kDim;
  const int own_column = threadIdx.x;
  const SplitStatistics statistics = LoadStatistics(partials, own_column / kWarp, group);
  if (own_column < columns) {
    CopyColumn<P>(partials, columns, own_column, 0, min(splits, Memory::kSplits), memory);
  }
  WeighSplits<P>(job, first_head, partials, statistics, memory.weights);
  __syncthreads();
#pragma unroll 1
  for (int column = own_column; column < columns; column += P::kThreads) {
    const float* weights = memory.weights + column / (P::kDim / 4);
    const float4* own = memory.columns + column % Memory::kColumns;
    float4 sum = {0, 0, 0, 0};
#pragma unroll 1
    for (int first = 0; first < splits; first += Memory::kSplits) {
      const int count = min(splits - first, Memory::kSplits);
      if (first != 0 || column != own_column) {
        CopyColumn<P>(partials, columns, column, first, count, memory);
      }
      CommitCopies();
      AwaitCopies<0>();
#pragma unroll 8
      for (int i = 0; i < count; ++i) {
        Add(own[i * Memory::kColumns], weights[(first + i) * P::kGroup], &sum);
      }
    }
    PutOutput(job.args, first_output + 4 * column, sum);
  }
}

// Returns how many blocks have counted before. What they, and this block before its barrier, wrote
// is seen by whoever counts later, and by its block after a barrier.
__device__ __forceinline__ unsigned CountBlock(unsigned* counter) {
  unsigned before;
  asm volatile("atom.add.acq_rel.gpu.global.u32 %0, [%1], 1;"
               : "=r"(before)
               : "l"(__cvta_generic_to_global(counter))
               : "memory");
  return before;
}

}  // namespace longspan::cuda::decode

#endif  // LONGSPAN_KERNELS_CUDA_DECODE_ATTENTION_MERGE_CUH_
