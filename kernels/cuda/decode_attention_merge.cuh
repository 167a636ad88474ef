#ifndef LONGSPAN_KERNELS_CUDA_DECODE_ATTENTION_MERGE_CUH_
#define LONGSPAN_KERNELS_CUDA_DECODE_ATTENTION_MERGE_CUH_

#include <cuda_runtime.h>

#include <cstddef>
#include <cstdint>

#include "kernels/cuda/decode_attention_share.cuh"
#include "kernels/cuda/numbers.cuh"
#include "kernels/cuda/sum_across.cuh"

// How decode attention merges what was found apart, always in the same order: a block its teams,
// and the last block of a row and KV head to finish all splits.
namespace longspan::cuda::decode {

constexpr float kLn2 = 0.6931471805599453f;
constexpr int kMergeUnroll = 17;  // splits whose loads are under way at once

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

// Writes the weights [splits, kGroup] of splits in the row's result, and its lse. A warp takes a
// head. Other blocks wrote the partials, so they are read past the L1 cache, here and below.
template <typename P>
__device__ __forceinline__ void WeighSplits(const Job& job, int64_t first_head,
                                            const Partials& partials, float* weights) {
  constexpr int kRounds = kMaxSplits / kWarp;
  const int splits = gridDim.y;
  const int lane = threadIdx.x % kWarp;
  const int group = job.group();
  for (int head = threadIdx.x / kWarp; head < group; head += P::kThreads / kWarp) {
    float2 own[kRounds];
    float max = -kInfinity, sums[1] = {0};
#pragma unroll
    for (int i = 0; i < kRounds; ++i) {
      const int split = i * kWarp + lane;
      own[i] = {-kInfinity, 0};
      if (split < splits) {
        own[i] =
            __ldcg(reinterpret_cast<const float2*>(partials.statistics) + split * group + head);
      }
      max = fmaxf(max, own[i].x);
    }
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

// Four dimensions of a head, of some splits; zeros past the last.
struct Columns {
  float4 of[kMergeUnroll];
};

template <typename P>
__device__ __forceinline__ void LoadColumns(const Partials& partials, int columns, int column,
                                            int first, Columns* loaded) {
  const auto* from = reinterpret_cast<const float4*>(partials.outputs) + column;
#pragma unroll
  for (int i = 0; i < kMergeUnroll; ++i) {
    loaded->of[i] = {0, 0, 0, 0};
    if (column < columns && first + i < static_cast<int>(gridDim.y)) {
      loaded->of[i] = __ldcg(from + (first + i) * columns);
    }
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

// By the last block of a row and KV head. The first loads are under way while weights are found.
template <typename P>
__device__ __forceinline__ void MergePartials(const Job& job, int row, const Partials& partials,
                                              float* weights) {
  const int splits = gridDim.y;
  const int group = job.group();
  const int columns = group * (P::kDim / 4);
  const int64_t first_head = row * job.args.shape.heads + int64_t{blockIdx.x} * group;
  const int64_t first_output = first_head * P::kDim;
  Columns loaded;
  LoadColumns<P>(partials, columns, threadIdx.x, 0, &loaded);
  WeighSplits<P>(job, first_head, partials, weights);
  __syncthreads();
#pragma unroll 1
  for (int column = threadIdx.x; column < columns; column += P::kThreads) {
    const float* of_head = weights + column / (P::kDim / 4);
    float4 sum = {0, 0, 0, 0};
#pragma unroll 1
    for (int first = 0; first < splits; first += kMergeUnroll) {
      if (first != 0 || column >= P::kThreads) {
        LoadColumns<P>(partials, columns, column, first, &loaded);
      }
#pragma unroll
      for (int i = 0; i < kMergeUnroll; ++i) {
        if (first + i < splits) Add(loaded.of[i], of_head[(first + i) * P::kGroup], &sum);
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
