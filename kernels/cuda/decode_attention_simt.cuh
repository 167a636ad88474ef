#ifndef LONGSPAN_KERNELS_CUDA_DECODE_ATTENTION_SIMT_CUH_
#define LONGSPAN_KERNELS_CUDA_DECODE_ATTENTION_SIMT_CUH_

#include <cuda_runtime.h>

#include <algorithm>
#include <bit>
#include <cstddef>
#include <cstdint>

#include "kernels/cuda/decode_attention_merge.cuh"
#include "kernels/cuda/decode_attention_share.cuh"
#include "kernels/cuda/numbers.cuh"
#include "kernels/cuda/rope.cuh"
#include "kernels/cuda/sum_across.cuh"

// Decode attention in float32 arithmetic, for what the tensor cores are not used for. A team is one
// warp for every four heads of the group, so that what a thread keeps fits its registers. A query
// at position p and a key at m meet as R(p) q . R(m) k = q . R(m - p) k: queries stay as they are,
// and each key is turned back by its distance, p - m, or far_position if it is apart.
namespace longspan::cuda::decode {

constexpr int kSimtWarps = 8;
constexpr int kPairs = 4;  // of dimensions, that one lane computes
constexpr int kMaxThreadHeads = 4;
constexpr int kDepth = 2;            // steps that a warp's share of shared memory holds
constexpr int kStepRowBytes = 2048;  // of a step's keys, at most, and of its values
constexpr int kMaxStepTokens = 16;   // so that lists of tokens stay small

template <typename P>
__device__ __forceinline__ void AttendSimt(const Job& job, std::byte* memory);

// Heads of a thread (1, 2 or 4) and warps of a team (1, 2 or 4): together the group, padded.
template <typename T, int kHeadDim, int kThreadHeads, int kTeamWarps>
struct SimtTiling {
  using Number = T;
  static constexpr int kDim = kHeadDim;
  static constexpr int kHeads = kThreadHeads;
  static constexpr int kSlices = kTeamWarps;
  static constexpr int kGroup = kHeads * kSlices;
  static constexpr int kTeams = kSimtWarps / kSlices;
  static constexpr int kTeamLanes = kWarp * kSlices;
  static constexpr int kThreads = kSimtWarps * kWarp;
  static constexpr int kMinBlocks = kBlocksPerMultiprocessor;
  static constexpr int kMergeStride = kDim;

  // A subgroup of lanes computes a token; in one step it takes kTokens consecutive ones.
  static constexpr int kLanes = kDim / (2 * kPairs);
  static constexpr int kSubgroups = kWarp / kLanes;
  static constexpr int kRowBytes = kDim * static_cast<int>(sizeof(T));
  // As many tokens of 8-bit numbers as of 16-bit ones: a thread has registers for no more.
  static constexpr int kStepTokens =
      std::min(kMaxStepTokens, kStepRowBytes / std::max(kRowBytes, 2 * kDim));
  static constexpr int kTokens = kStepTokens / kSubgroups;

  // Scores of a subgroup's step, [kTokens, kHeads], end up spread over its lanes: kKept each, or
  // if there are fewer scores than lanes each on several.
  static constexpr int kScores = kTokens * kHeads;
  static constexpr int kKept = std::max(1, kScores / kLanes);
  static constexpr int kCopies = std::max(1, kLanes / kScores);
  static constexpr int kTokenStride = kLanes / kTokens;  // lanes between tokens, same head
  static __device__ int LaneOf(int score) { return score / kKept * kCopies; }
  static __device__ int FirstScoreOf(int lane) { return lane / kCopies * kKept; }

  static __device__ int Piece(int /*token*/, int piece) { return piece; }

  static constexpr int kStages = kDepth * kSlices;
  static constexpr int kHalfStageBytes = kStepTokens * kRowBytes;
  static constexpr int kStageBytes = 2 * kHalfStageBytes;  // keys, then values
  // Tokens under way, of the next step, and those that one more round of listing may add.
  static constexpr int kRing = std::bit_ceil(unsigned{(kStages + 1) * kStepTokens + kWarp});
  static constexpr int kMergeBytes = kTeams * kGroup * (kDim + 2) * 4;
  static constexpr int kStagesBytes = std::max(kTeams * kStages * kStageBytes, kMergeBytes);
  static constexpr int kSharedBytes = kStagesBytes + kTeams * kRing * (8 + 4);

  static_assert(kTokens >= 1 && kTokens * kSubgroups == kStepTokens);
  static_assert(kKept <= kHeads);  // so that a lane's scores are of one token
  static_assert(kStagesBytes % 16 == 0 && kMaxSplits * kGroup * 4 <= kStagesBytes);

  static __device__ void Attend(const Job& job, std::byte* memory) {
    AttendSimt<SimtTiling>(job, memory);
  }
};

template <typename P>
__device__ __forceinline__ void SynchronizeTeam(int team) {
  if constexpr (P::kSlices == 1) {
    __syncwarp();
  } else {
    asm volatile("bar.sync %0, %1;\n" ::"r"(team + 1), "n"(P::kTeamLanes) : "memory");
  }
}

// ---- One step ----------------------------------------------------------------------------------

// Cosines and sines of a lane's pairs at a distance.
struct LaneRotation {
  float cos[kPairs], sin[kPairs];
};

__device__ __forceinline__ LaneRotation LaneRotationAt(const RopeTable& table, uint32_t distance,
                                                       int first_pair) {
  const RotationRow row = RotationsFrom(table, distance, first_pair);
  LaneRotation rotation;
#pragma unroll
  for (int i = 0; i < kPairs; i += 2) {
    const float4 two = RotationsAt(row, i);
    rotation.cos[i] = two.x;
    rotation.sin[i] = two.y;
    rotation.cos[i + 1] = two.z;
    rotation.sin[i + 1] = two.w;
  }
  return rotation;
}

__device__ __forceinline__ void TurnBack(const LaneRotation& by, LaneRotation* rotation) {
#pragma unroll
  for (int i = 0; i < kPairs; ++i) {
    const float cos = rotation->cos[i];
    rotation->cos[i] = cos * by.cos[i] + rotation->sin[i] * by.sin[i];
    rotation->sin[i] = rotation->sin[i] * by.cos[i] - cos * by.sin[i];
  }
}

// The dimensions of a lane: kPairs of the lower half, and their partners of the upper.
template <typename P, typename T>
__device__ __forceinline__ void LoadPairs(const T* row, int lane, float (&low)[kPairs],
                                          float (&high)[kPairs]) {
  LoadFloats(row + lane * kPairs, low);
  LoadFloats(row + P::kDim / 2 + lane * kPairs, high);
}

// What a thread keeps from step to step. `lane` counts in the subgroup.
template <typename P>
struct State {
  int lane;
  int subgroup;
  float query_low[P::kHeads][kPairs], query_high[P::kHeads][kPairs];    // times scale, base 2
  float output_low[P::kHeads][kPairs], output_high[P::kHeads][kPairs];  // not yet normalised
  float max[P::kKept];    // of the subgroup, for the heads of the lane's scores
  float sum[P::kKept];    // of the lane's own scores
  LaneRotation rotation;  // at `distance`
  uint32_t distance;
  LaneRotation one;  // at distance 1
};

template <typename P>
__device__ __forceinline__ void Initialize(const Job& job, int row, int slice, State<P>* state) {
  const DecodeAttentionArgs& args = job.args;
  const float scale = job.scale;
  const int group = job.group();
  const int64_t first_head = row * args.shape.heads + blockIdx.x * group;
#pragma unroll
  for (int h = 0; h < P::kHeads; ++h) {
    const int in_group = slice * P::kHeads + h;
    float low[kPairs] = {}, high[kPairs] = {};
    if (in_group < group) {
      LoadPairs<P>(args.queries + (first_head + in_group) * P::kDim, state->lane, low, high);
    }
#pragma unroll
    for (int i = 0; i < kPairs; ++i) {
      state->query_low[h][i] = low[i] * scale;
      state->query_high[h][i] = high[i] * scale;
      state->output_low[h][i] = 0;
      state->output_high[h][i] = 0;
    }
  }
#pragma unroll
  for (int e = 0; e < P::kKept; ++e) {
    state->max[e] = -kInfinity;
    state->sum[e] = 0;
  }
  state->distance = 0;
  state->rotation = LaneRotationAt(args.rope, 0, state->lane * kPairs);
  state->one = LaneRotationAt(args.rope, 1, state->lane * kPairs);
}

// Distances of a subgroup's tokens of one step.
template <typename P>
struct alignas(4 * P::kTokens) Distances {
  uint32_t of[P::kTokens];
};

template <typename P>
__device__ __forceinline__ void RotateTo(const RopeTable& rope, uint32_t distance,
                                         State<P>* state) {
  if (distance == state->distance) return;
  state->rotation = LaneRotationAt(rope, distance, state->lane * kPairs);
  state->distance = distance;
}

// Rotation for the step's first token; those of the others usually follow from it. Apart from the
// rest, so that its loads are under way while the step's copies are awaited.
template <typename P>
__device__ __forceinline__ Distances<P> BeginStep(const RopeTable& rope, const TokenList<P>& list,
                                                  uint32_t first, State<P>* state) {
  const uint32_t* from = list.distances + list.Slot(first) + state->subgroup * P::kTokens;
  const Distances<P> distances = *reinterpret_cast<const Distances<P>*>(from);
  RotateTo(rope, distances.of[0], state);
  return distances;
}

// scores: [kTokens, kHeads], the lane's part of the dot products.
template <typename P>
__device__ __forceinline__ void Score(const RopeTable& rope, const Distances<P>& distances,
                                      const typename P::Number* keys, State<P>* state,
                                      float (&scores)[P::kScores]) {
  bool consecutive = true;
#pragma unroll
  for (int t = 1; t < P::kTokens; ++t) {
    consecutive &= distances.of[t] + 1 == distances.of[t - 1];
  }
  consecutive = __all_sync(kAllLanes, consecutive);
#pragma unroll
  for (int t = 0; t < P::kTokens; ++t) {
    const int in_step = state->subgroup * P::kTokens + t;
    if (t > 0 && consecutive) {
      TurnBack(state->one, &state->rotation);
    } else if (t > 0) {
      RotateTo(rope, distances.of[t], state);
    }
    float low[kPairs], high[kPairs];
    LoadPairs<P>(keys + in_step * P::kDim, state->lane, low, high);
#pragma unroll
    for (int i = 0; i < kPairs; ++i) {
      const float cos = state->rotation.cos[i], sin = state->rotation.sin[i];
      const float key = low[i];
      low[i] = key * cos + high[i] * sin;
      high[i] = high[i] * cos - key * sin;
    }
#pragma unroll
    for (int h = 0; h < P::kHeads; ++h) {
      float sum = 0;
#pragma unroll
      for (int i = 0; i < kPairs; ++i) {
        sum += state->query_low[h][i] * low[i];
        sum += state->query_high[h][i] * high[i];
      }
      scores[t * P::kHeads + h] = sum;
    }
  }
  state->distance = distances.of[P::kTokens - 1];
}

// Turns a lane's kept scores into weights relative to the new maximum, and scales what came before.
template <typename P>
__device__ __forceinline__ void UpdateSoftmax(uint32_t first, uint32_t filled, State<P>* state,
                                              float (&scores)[P::kScores]) {
  const int token = state->subgroup * P::kTokens + P::FirstScoreOf(state->lane) / P::kHeads;
  const bool present = first + token < filled;
  float scale[P::kKept];
  bool grown = false;
#pragma unroll
  for (int e = 0; e < P::kKept; ++e) {
    if (!present) scores[e] = -kInfinity;
    float max = fmaxf(state->max[e], scores[e]);
#pragma unroll
    for (int offset = P::kTokenStride; offset < P::kLanes; offset *= 2) {
      max = fmaxf(max, __shfl_xor_sync(kAllLanes, max, offset));
    }
    grown |= max != state->max[e];
    scale[e] = Exp2(state->max[e] - Shift(max));
    state->max[e] = max;
    scores[e] = Exp2(scores[e] - Shift(max));
    state->sum[e] = state->sum[e] * scale[e] + scores[e];
  }
  if (!__any_sync(kAllLanes, grown)) return;
#pragma unroll
  for (int h = 0; h < P::kHeads; ++h) {
    const float of_head = __shfl_sync(kAllLanes, scale[h % P::kKept], P::LaneOf(h), P::kLanes);
#pragma unroll
    for (int i = 0; i < kPairs; ++i) {
      state->output_low[h][i] *= of_head;
      state->output_high[h][i] *= of_head;
    }
  }
}

template <typename P>
__device__ __forceinline__ void AddValues(const typename P::Number* values,
                                          const float (&weights)[P::kScores], State<P>* state) {
#pragma unroll
  for (int t = 0; t < P::kTokens; ++t) {
    float low[kPairs], high[kPairs];
    LoadPairs<P>(values + (state->subgroup * P::kTokens + t) * P::kDim, state->lane, low, high);
#pragma unroll
    for (int h = 0; h < P::kHeads; ++h) {
      const int score = t * P::kHeads + h;
      const float weight =
          __shfl_sync(kAllLanes, weights[score % P::kKept], P::LaneOf(score), P::kLanes);
#pragma unroll
      for (int i = 0; i < kPairs; ++i) {
        state->output_low[h][i] += weight * low[i];
        state->output_high[h][i] += weight * high[i];
      }
    }
  }
}

// ---- The core ----------------------------------------------------------------------------------

// Merges the subgroups of a warp, and writes the result to the block's memory.
template <typename P>
__device__ __forceinline__ void StoreWarp(int team, int slice, State<P>* state,
                                          const MergeMemory<P>& memory) {
#pragma unroll
  for (int e = 0; e < P::kKept; ++e) {
#pragma unroll
    for (int offset = P::kTokenStride; offset < P::kLanes; offset *= 2) {
      state->sum[e] += __shfl_xor_sync(kAllLanes, state->sum[e], offset);
    }
  }
#pragma unroll
  for (int h = 0; h < P::kHeads; ++h) {
    const int lane = P::LaneOf(h);
    const float own_max = __shfl_sync(kAllLanes, state->max[h % P::kKept], lane, P::kLanes);
    float sum = __shfl_sync(kAllLanes, state->sum[h % P::kKept], lane, P::kLanes);
    float max = own_max;
#pragma unroll
    for (int offset = P::kLanes; offset < kWarp; offset *= 2) {
      max = fmaxf(max, __shfl_xor_sync(kAllLanes, max, offset));
    }
    const float scale = Exp2(own_max - Shift(max));
    sum *= scale;
#pragma unroll
    for (int offset = P::kLanes; offset < kWarp; offset *= 2) {
      sum += __shfl_xor_sync(kAllLanes, sum, offset);
    }
    const int at = team * P::kGroup + slice * P::kHeads + h;
#pragma unroll
    for (int i = 0; i < kPairs; ++i) {
      float low = state->output_low[h][i] * scale;
      float high = state->output_high[h][i] * scale;
#pragma unroll
      for (int offset = P::kLanes; offset < kWarp; offset *= 2) {
        low += __shfl_xor_sync(kAllLanes, low, offset);
        high += __shfl_xor_sync(kAllLanes, high, offset);
      }
      if (state->subgroup != 0) continue;
      float* output = memory.outputs + at * P::kDim + state->lane * kPairs + i;
      output[0] = low;
      output[P::kDim / 2] = high;
    }
    if (state->subgroup == 0 && state->lane == 0) memory.statistics[at] = {max, sum};
  }
}

// A team attends to one part of its share.
template <typename P>
__device__ __forceinline__ void AttendToPart(const Job& job, int team, int slice, Part part,
                                             const TokenList<P>& list, Share* share,
                                             std::byte* stages, State<P>* state) {
  const DecodeAttentionArgs& args = job.args;
  const int row = blockIdx.z;
  const int warp_lane = threadIdx.x % kWarp;
  const int team_lane = slice * kWarp + warp_lane;
  const bool leads = slice == 0;  // one warp lists the tokens for all of the team
  uint32_t next = 0, listed = 0;
  SynchronizeTeam<P>(team);  // the list of the part before is not needed any more
  if (leads) {
    next = share->of(part).begin;
    ListTokens<P>(job, row, warp_lane, part, P::kStages * P::kStepTokens, list, share, &next,
                  &listed);
  }
  SynchronizeTeam<P>(team);
  uint32_t filled = *list.filled;
#pragma unroll
  for (int s = 0; s < P::kStages; ++s) {
    CopyStep<P>(args, list, s * P::kStepTokens, filled, team_lane, stages + s * P::kStageBytes);
  }

  for (uint32_t first = 0; first < filled; first += P::kStepTokens) {
    const Distances<P> distances = BeginStep<P>(args.rope, list, first, state);
    AwaitCopies<P::kStages - 1>();
    SynchronizeTeam<P>(team);
    std::byte* stage = stages + first / P::kStepTokens % P::kStages * P::kStageBytes;
    const auto* keys = reinterpret_cast<const typename P::Number*>(stage);
    float scores[P::kScores];
    Score<P>(args.rope, distances, keys, state, scores);
    SumAcross<P::kScores, P::kLanes>(scores);
    UpdateSoftmax<P>(first, filled, state, scores);
    AddValues<P>(keys + P::kStepTokens * P::kDim, scores, state);
    const uint32_t ahead = first + P::kStages * P::kStepTokens;
    if (leads) {
      ListTokens<P>(job, row, warp_lane, part, ahead + P::kStepTokens, list, share, &next, &listed);
    }
    SynchronizeTeam<P>(team);
    filled = *list.filled;
    CopyStep<P>(args, list, ahead, filled, team_lane, stage);
  }
}

// A team attends to its share of the row's keys.
template <typename P>
__device__ __forceinline__ void AttendToShare(const Job& job, int team, int slice,
                                              const TokenList<P>& list, Share* share,
                                              std::byte* stages, State<P>* state) {
  Initialize<P>(job, blockIdx.z, slice, state);
  if (slice == 0 && threadIdx.x % kWarp == 0) {
    *share = ShareOf<1>(job, blockIdx.z, blockIdx.y * P::kTeams + team);
  }
#pragma unroll 1
  for (int p = 0; p < kParts; ++p) {
    const auto part = static_cast<Part>(p);
    if (part == Part::kSelected) WaitForPredecessors();
    AttendToPart<P>(job, team, slice, part, list, share, stages, state);
  }
}

// Leaves what the block's teams found in its MergeMemory.
template <typename P>
__device__ __forceinline__ void AttendSimt(const Job& job, std::byte* memory) {
  __shared__ Share shares[P::kTeams];
  __shared__ uint32_t filled[P::kTeams];
  const int warp = threadIdx.x / kWarp;
  const int team = warp / P::kSlices;
  const int slice = warp % P::kSlices;
  State<P> state;
  state.lane = threadIdx.x % P::kLanes;
  state.subgroup = threadIdx.x % kWarp / P::kLanes;

  auto* keys = reinterpret_cast<const std::byte**>(memory + P::kStagesBytes);
  auto* distances = reinterpret_cast<uint32_t*>(keys + P::kTeams * P::kRing);
  const TokenList<P> list = {keys + team * P::kRing, distances + team * P::kRing, filled + team};
  AttendToShare<P>(job, team, slice, list, shares + team,
                   memory + team * P::kStages * P::kStageBytes, &state);
  __syncthreads();  // no team needs its stages any more
  StoreWarp<P>(team, slice, &state, MergeMemory<P>(memory));
  __syncthreads();
}

}  // namespace longspan::cuda::decode

#endif  // LONGSPAN_KERNELS_CUDA_DECODE_ATTENTION_SIMT_CUH_
