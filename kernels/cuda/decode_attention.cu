#include <cuda_runtime.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstddef>
#include <limits>

#include "absl/strings/str_cat.h"
#include "kernels/base/status_macros.h"
#include "kernels/cuda/async_copy.cuh"
#include "kernels/cuda/decode_attention.h"
#include "kernels/cuda/numbers.cuh"
#include "kernels/cuda/sum_across.cuh"

// The grid is KV heads x splits x rows. The warps of a block form teams, and each team attends to
// an equal, consecutive part of the row's keys on its own: it lists the addresses of its next
// tokens, copies their rows to shared memory asynchronously some steps ahead, and keeps an online
// softmax. A team is one warp for every four heads of the group, so that what a thread keeps fits
// its registers. At the end the block merges its teams, and the last block of a row and KV head to
// finish merges the splits, in order.
//
// A query at position p and a key at m meet as R(p) q . R(m) k = q . R(m - p) k. So queries stay as
// they are, and each key is turned back by its distance: p - m, or far_position if it is apart.
namespace longspan::cuda {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr double kLog2E = 1.4426950408889634;
constexpr double kLn2 = 0.6931471805599453;

constexpr int kWarp = 32;
constexpr int kWarps = 8;
constexpr int kThreads = kWarp * kWarps;
constexpr int kBlocksPerMultiprocessor = 2;
constexpr unsigned kAllLanes = 0xffffffff;
constexpr int kPairs = 4;  // of dimensions, that one lane computes
constexpr int kMaxThreadHeads = 4;
constexpr int kMaxGroup = 16;
constexpr int kDepth = 2;            // steps that a warp's share of shared memory holds
constexpr int kStepRowBytes = 2048;  // of a step's keys, at most, and of its values
constexpr int kMaxStepTokens = 16;   // so that lists of tokens stay small
constexpr int kMaxSplits = 64;       // merging more takes longer than it saves
constexpr int kMergeUnroll = 8;      // splits whose loads are under way at once
constexpr int64_t kMaxRows = 65535;  // gridDim.z
constexpr int64_t kCounterAlignment = 16;
constexpr auto kFine = static_cast<uint32_t>(kRopeFine);

// Heads of a thread (1, 2 or 4) and warps of a team (1, 2 or 4): together the group, padded.
template <typename T, int kHeadDim, int kThreadHeads, int kTeamWarps>
struct Tiling {
  using Number = T;
  static constexpr int kDim = kHeadDim;
  static constexpr int kHeads = kThreadHeads;
  static constexpr int kSlices = kTeamWarps;
  static constexpr int kGroup = kHeads * kSlices;
  static constexpr int kTeams = kWarps / kSlices;
  static constexpr int kTeamLanes = kWarp * kSlices;

  // A subgroup of lanes computes a token; in one step it takes kTokens consecutive ones.
  static constexpr int kLanes = kDim / (2 * kPairs);
  static constexpr int kSubgroups = kWarp / kLanes;
  static constexpr int kRowBytes = kDim * static_cast<int>(sizeof(T));
  static constexpr int kStepTokens = std::min(kMaxStepTokens, kStepRowBytes / kRowBytes);
  static constexpr int kTokens = kStepTokens / kSubgroups;

  // Scores of a subgroup's step, [kTokens, kHeads], end up spread over its lanes: kKept each, or
  // if there are fewer scores than lanes each on several.
  static constexpr int kScores = kTokens * kHeads;
  static constexpr int kKept = std::max(1, kScores / kLanes);
  static constexpr int kCopies = std::max(1, kLanes / kScores);
  static constexpr int kTokenStride = kLanes / kTokens;  // lanes between tokens, same head
  static __device__ int LaneOf(int score) { return score / kKept * kCopies; }
  static __device__ int FirstScoreOf(int lane) { return lane / kCopies * kKept; }

  static constexpr int kStages = kDepth * kSlices;
  static constexpr int kHalfStageBytes = kStepTokens * kRowBytes;
  static constexpr int kStageBytes = 2 * kHalfStageBytes;  // keys, then values
  // Tokens under way, of the next step, and those that one more round of listing may add.
  static constexpr int kRing = std::bit_ceil(unsigned{(kStages + 1) * kStepTokens + kWarp});
  static constexpr int kStagesBytes = kTeams * kStages * kStageBytes;
  static constexpr int kMergeBytes = kTeams * kGroup * (kDim + 2) * 4;
  static constexpr int kSharedBytes = kStagesBytes + kTeams * kRing * (8 + 4);

  static_assert(kTokens >= 1 && kTokens * kSubgroups == kStepTokens);
  static_assert(kKept <= kHeads);  // so that a lane's scores are of one token
  static_assert(kMergeBytes <= kStagesBytes);
};

__device__ __forceinline__ float Exp2(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));  // as exp2f, but subnormals are 0
  return y;
}

// What exponents are taken relative to: nothing has been seen where the maximum is -inf.
__device__ __forceinline__ float Shift(float max) { return max == -kInfinity ? 0.0f : max; }

__device__ __forceinline__ int GroupOf(const DecodeAttentionArgs& args) {
  return static_cast<int>(args.shape.heads) / static_cast<int>(args.shape.kv_heads);
}

// ---- A team's tokens ---------------------------------------------------------------------------

// Positions fit 32 bits, and 64-bit divisions take long.
struct Place {
  uint32_t page;  // of its owner
  uint32_t slot;
  uint32_t owner;
};

__device__ __forceinline__ Place PlaceOf(const ShardGeometry& geometry, uint32_t position) {
  const auto tokens = static_cast<uint32_t>(geometry.stripe_tokens);
  const auto ranks = static_cast<uint32_t>(geometry.num_ranks);
  const uint32_t stripe = position / tokens;
  return {stripe / ranks, position - stripe * tokens, stripe % ranks};
}

__device__ __forceinline__ uint32_t OwnedBefore(const ShardGeometry& geometry, uint32_t position) {
  const Place place = PlaceOf(geometry, position);
  const auto tokens = static_cast<uint32_t>(geometry.stripe_tokens);
  const auto rank = static_cast<uint32_t>(geometry.rank);
  return place.page * tokens + (place.owner < rank ? 0 : place.owner == rank ? place.slot : tokens);
}

// What one team reads: `initial` own tokens from local index initial_begin on, then those of
// `selected` candidates that are own, then `near` own tokens.
struct Share {
  const std::byte* const* pages;
  const uint64_t* candidates;
  uint32_t position;  // of the query
  uint32_t initial_begin, initial;
  uint32_t selected;
  uint32_t near_begin, near;

  __device__ uint32_t total() const { return initial + selected + near; }
};

struct Interval {
  uint32_t begin, end;
};

// The part of [first, first + count) that lies in `whole`, counted from `first`.
__device__ __forceinline__ Interval PartOf(Interval whole, uint32_t first, uint32_t count) {
  const uint32_t begin = whole.begin > first ? whole.begin - first : 0;
  const uint32_t end = whole.end > first ? whole.end - first : 0;
  return {min(begin, count), min(end, count)};
}

// Of a row's tokens the part `unit` of `units`. A candidate counts as 1/num_ranks token.
__device__ __forceinline__ Share ShareOf(const DecodeAttentionArgs& args, int row, uint32_t unit,
                                         uint32_t units) {
  const DecodeRow decode_row = args.rows[row];
  // Read whether needed or not, so that it need not wait for the row.
  const uint32_t counted = args.selected != nullptr ? args.selected_counts[row] : 0;
  const auto position = static_cast<uint32_t>(decode_row.position);
  const int64_t lo = max(int64_t{0}, decode_row.position - args.local_tokens);
  const bool all_near = args.dense || lo <= args.initial_tokens;
  const auto ranks = static_cast<uint32_t>(args.geometry.num_ranks);
  const uint32_t near_first = all_near ? 0 : OwnedBefore(args.geometry, static_cast<uint32_t>(lo));
  const uint32_t num_near = OwnedBefore(args.geometry, position + 1) - near_first;
  uint32_t num_initial = 0, num_selected = 0;
  if (!all_near) {
    num_initial = OwnedBefore(args.geometry, static_cast<uint32_t>(args.initial_tokens));
    num_selected = counted;
  }
  const uint32_t selected_weight = (num_selected + ranks - 1) / ranks;

  const uint32_t weight = num_initial + selected_weight + num_near;
  const uint32_t each = weight / units, rest = weight % units;
  const uint32_t begin = each * unit + min(unit, rest);
  const Interval mine = {begin, begin + each + (unit < rest ? 1 : 0)};
  const Interval initial = PartOf(mine, 0, num_initial);
  const Interval selected = PartOf(mine, num_initial, selected_weight);
  const Interval near = PartOf(mine, num_initial + selected_weight, num_near);

  Share share;
  share.pages = decode_row.pages;
  share.position = position;
  share.initial_begin = initial.begin;
  share.initial = initial.end - initial.begin;
  const uint32_t first_candidate = min(selected.begin * ranks, num_selected);
  share.candidates = args.selected + row * args.selected_stride + first_candidate;
  share.selected = min(selected.end * ranks, num_selected) - first_candidate;
  share.near_begin = near_first + near.begin;
  share.near = near.end - near.begin;
  return share;
}

// A team's list of tokens, in the order in which it attends to them: a ring in shared memory.
template <typename P>
struct TokenList {
  const std::byte** keys;  // [kRing] key rows of the block's KV head
  uint32_t* distances;     // [kRing]
  uint32_t* filled;        // tokens listed so far

  static __device__ uint32_t Slot(uint32_t token) { return token % P::kRing; }
};

// Lists tokens until there are `want`, or no more. By one whole warp; `next` counts the share's
// tokens and candidates looked at, `filled` those listed.
template <typename P>
__device__ __forceinline__ void ListTokens(const DecodeAttentionArgs& args, const Share& share,
                                           int lane, uint32_t want, const TokenList<P>& list,
                                           uint32_t* next, uint32_t* filled) {
  const ShardGeometry& geometry = args.geometry;
  const auto tokens = static_cast<uint32_t>(geometry.stripe_tokens);
  const auto rank = static_cast<uint32_t>(geometry.rank);
  const int64_t token_bytes = args.shape.kv_heads * P::kRowBytes;
  const uint32_t total = share.total();
  while (*filled < want && *next < total) {
    const uint32_t index = *next + lane;
    const bool far = index < share.initial + share.selected;
    bool own = index < total;
    Place place = {0, 0, rank};
    uint32_t position = 0;
    if (own && far && index >= share.initial) {
      position = 0xffffffffu - static_cast<uint32_t>(share.candidates[index - share.initial]);
      place = PlaceOf(geometry, position);
      own = place.owner == rank;
    } else if (own) {
      const uint32_t local = far ? share.initial_begin + index
                                 : share.near_begin + (index - share.initial - share.selected);
      place.page = local / tokens;
      place.slot = local % tokens;
      position = (place.page * geometry.num_ranks + rank) * tokens + place.slot;
    }
    const unsigned owned = __ballot_sync(kAllLanes, own);
    if (own) {
      const uint32_t slot = list.Slot(*filled + __popc(owned & ((1u << lane) - 1)));
      list.keys[slot] = share.pages[place.page] + args.key_offset + place.slot * token_bytes +
                        int64_t{blockIdx.x} * P::kRowBytes;
      list.distances[slot] = far && args.far_is_apart ? static_cast<uint32_t>(args.far_position)
                                                      : share.position - position;
    }
    *filled += __popc(owned);
    *next = min(*next + kWarp, total);
    if (*next == total && lane < (P::kStepTokens - *filled % P::kStepTokens) % P::kStepTokens) {
      // The last step is computed whole.
      const uint32_t slot = list.Slot(*filled + lane);
      list.keys[slot] = reinterpret_cast<const std::byte*>(args.queries);
      list.distances[slot] = 0;
    }
  }
  if (lane == 0) *list.filled = *filled;
}

// ---- Copies to shared memory -------------------------------------------------------------------

template <typename P>
__device__ __forceinline__ void SynchronizeTeam(int team) {
  if constexpr (P::kSlices == 1) {
    __syncwarp();
  } else {
    asm volatile("bar.sync %0, %1;\n" ::"r"(team + 1), "n"(P::kTeamLanes) : "memory");
  }
}

// Starts the copy of a step's keys and values. Rows past the end of the list become zeros, for a
// weight of 0 would not silence a NaN in what lay there before.
template <typename P>
__device__ __forceinline__ void CopyStep(const DecodeAttentionArgs& args, const TokenList<P>& list,
                                         uint32_t first, uint32_t filled, int team_lane,
                                         std::byte* stage) {
  constexpr int kRowPieces = P::kRowBytes / 16;
  constexpr int kPieces = P::kStepTokens * kRowPieces;
  constexpr int kSweeps = std::max(1, kPieces / P::kTeamLanes);
  if (first < filled && team_lane < kPieces) {
    const int64_t to_value = args.value_offset - args.key_offset;
    const auto present = static_cast<int>(min(filled - first, uint32_t{P::kStepTokens}));
    const std::byte* const* keys = list.keys + list.Slot(first);
#pragma unroll
    for (int sweep = 0; sweep < kSweeps; ++sweep) {
      const int skipped = sweep * P::kTeamLanes;  // all of these are powers of 2
      const int token = team_lane / kRowPieces + skipped / kRowPieces;
      const int part = team_lane % kRowPieces + skipped % kRowPieces;
      const std::byte* from = keys[token] + part * 16;
      std::byte* to = stage + (team_lane + skipped) * 16;
      CopyAsync(to, from, token < present);
      CopyAsync(to + P::kHalfStageBytes, from + to_value, token < present);
    }
  }
  CommitCopies();
}

// ---- One step ----------------------------------------------------------------------------------

// Cosines and sines of a lane's pairs at a distance.
struct Rotation {
  float cos[kPairs], sin[kPairs];
};

__device__ __forceinline__ Rotation LoadRotation(const float2* row) {
  Rotation rotation;
#pragma unroll
  for (int i = 0; i < kPairs; i += 2) {
    const float4 two = *reinterpret_cast<const float4*>(row + i);
    rotation.cos[i] = two.x;
    rotation.sin[i] = two.y;
    rotation.cos[i + 1] = two.z;
    rotation.sin[i + 1] = two.w;
  }
  return rotation;
}

__device__ __forceinline__ Rotation RotationAt(const RopeTable& table, uint32_t distance,
                                               int first_pair) {
  const Rotation fine =
      LoadRotation(table.fine + static_cast<int64_t>(distance % kFine) * table.half + first_pair);
  const Rotation coarse =
      LoadRotation(table.coarse + static_cast<int64_t>(distance / kFine) * table.half + first_pair);
  Rotation product;
#pragma unroll
  for (int i = 0; i < kPairs; ++i) {
    product.cos[i] = coarse.cos[i] * fine.cos[i] - coarse.sin[i] * fine.sin[i];
    product.sin[i] = coarse.sin[i] * fine.cos[i] + coarse.cos[i] * fine.sin[i];
  }
  return product;
}

__device__ __forceinline__ void TurnBack(const Rotation& by, Rotation* rotation) {
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
  float max[P::kKept];  // of the subgroup, for the heads of the lane's scores
  float sum[P::kKept];  // of the lane's own scores
  Rotation rotation;    // at `distance`
  uint32_t distance;
  Rotation one;  // at distance 1
};

template <typename P>
__device__ __forceinline__ void Initialize(const DecodeAttentionArgs& args, int row, int slice,
                                           float scale, State<P>* state) {
  const int group = GroupOf(args);
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
  state->rotation = RotationAt(args.rope, 0, state->lane * kPairs);
  state->one = RotationAt(args.rope, 1, state->lane * kPairs);
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
  state->rotation = RotationAt(rope, distance, state->lane * kPairs);
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

// ---- Merging -----------------------------------------------------------------------------------

// A sum of weighted values with weights relative to 2^max, and the sum of weights.
struct Statistics {
  float max;
  float sum;
};

// The block's memory once no team needs its stages: [kTeams, kGroup, kDim] and [kTeams, kGroup].
template <typename P>
struct MergeMemory {
  float* outputs;
  Statistics* statistics;

  explicit __device__ MergeMemory(std::byte* memory)
      : outputs(reinterpret_cast<float*>(memory)),
        statistics(reinterpret_cast<Statistics*>(outputs + P::kTeams * P::kGroup * P::kDim)) {}
};

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

// Partials of one row and KV head: outputs [splits, group, head_dim], statistics [splits, group].
struct Partials {
  float* outputs;
  Statistics* statistics;
};

int64_t PadCounters(int64_t counters) {
  return (counters * 4 + kCounterAlignment - 1) / kCounterAlignment * kCounterAlignment;
}

// Merges the teams of a block into its split's partial.
template <typename P>
__device__ __forceinline__ void StorePartial(int group, const MergeMemory<P>& memory,
                                             const Partials& partials) {
  const int64_t first = int64_t{blockIdx.y} * group;
  for (int at = threadIdx.x; at < group * P::kDim; at += kThreads) {
    const int head = at / P::kDim;
    float max = -kInfinity;
#pragma unroll
    for (int t = 0; t < P::kTeams; ++t) {
      max = fmaxf(max, memory.statistics[t * P::kGroup + head].max);
    }
    float output = 0, sum = 0;
#pragma unroll
    for (int t = 0; t < P::kTeams; ++t) {
      const Statistics team = memory.statistics[t * P::kGroup + head];
      const float scale = Exp2(team.max - Shift(max));
      output += scale * memory.outputs[t * P::kGroup * P::kDim + at];
      sum += scale * team.sum;
    }
    partials.outputs[first * P::kDim + at] = output;
    if (at % P::kDim == 0) partials.statistics[first + head] = {max, sum};
  }
}

// Four dimensions of a head.
struct Column {
  Statistics statistics;
  float4 output;
};

__device__ __forceinline__ void Scale(float scale, Column* column) {
  column->statistics.sum *= scale;
  column->output.x *= scale;
  column->output.y *= scale;
  column->output.z *= scale;
  column->output.w *= scale;
}

__device__ __forceinline__ void Add(const Column& column, float scale, Column* sum) {
  sum->statistics.sum += scale * column.statistics.sum;
  sum->output.x += scale * column.output.x;
  sum->output.y += scale * column.output.y;
  sum->output.z += scale * column.output.z;
  sum->output.w += scale * column.output.w;
}

// Adds kCount columns to `sum`, in order.
template <int kCount>
__device__ __forceinline__ void AddColumns(const Column (&columns)[kCount], Column* sum) {
  float max = sum->statistics.max;
#pragma unroll
  for (int i = 0; i < kCount; ++i) max = fmaxf(max, columns[i].statistics.max);
  Scale(Exp2(sum->statistics.max - Shift(max)), sum);
  sum->statistics.max = max;
#pragma unroll
  for (int i = 0; i < kCount; ++i) {
    Add(columns[i], Exp2(columns[i].statistics.max - Shift(max)), sum);
  }
}

// One column of the splits first, first + step, ... Other blocks wrote them, so past the L1 cache.
template <typename P>
__device__ __forceinline__ Column MergeSplits(int group, int column, int first, int step,
                                              const Partials& partials) {
  const int splits = gridDim.y;
  const int head = column / (P::kDim / 4);
  const Column empty = {{-kInfinity, 0}, {0, 0, 0, 0}};
  Column sum = empty;
  for (int split = first; split < splits; split += step * kMergeUnroll) {
    Column columns[kMergeUnroll];
#pragma unroll
    for (int i = 0; i < kMergeUnroll; ++i) {
      columns[i] = empty;
      if (split + i * step >= splits) continue;
      const int64_t row = int64_t{split + i * step} * group;
      const float2 statistics =
          __ldcg(reinterpret_cast<const float2*>(partials.statistics + row + head));
      columns[i].statistics = {statistics.x, statistics.y};
      columns[i].output =
          __ldcg(reinterpret_cast<const float4*>(partials.outputs + row * P::kDim) + column);
    }
    AddColumns(columns, &sum);
  }
  return sum;
}

template <typename P>
__device__ __forceinline__ void StoreResult(const DecodeAttentionArgs& args, int64_t first_head,
                                            int column, const Column& result) {
  const float sum = result.statistics.sum;
  const float inverse = sum == 0 ? 0.0f : 1 / sum;
  float4 output = result.output;
  output.x *= inverse;
  output.y *= inverse;
  output.z *= inverse;
  output.w *= inverse;
  reinterpret_cast<float4*>(args.output + first_head * P::kDim)[column] = output;
  if (column % (P::kDim / 4) != 0) return;
  args.lse[first_head + column / (P::kDim / 4)] =
      sum == 0 ? -kInfinity : (result.statistics.max + log2f(sum)) * static_cast<float>(kLn2);
}

// By the last block of a row and KV head: the threads that the columns leave over share the splits.
template <typename P>
__device__ __forceinline__ void MergePartials(const DecodeAttentionArgs& args, int row,
                                              const Partials& partials, Column* memory) {
  constexpr int kColumns = P::kGroup * P::kDim / 4;
  constexpr int kParts = std::max(1, kThreads / kColumns);
  const int group = GroupOf(args);
  const int columns = group * P::kDim / 4;
  const int64_t first_head = row * args.shape.heads + blockIdx.x * group;
  if constexpr (kParts == 1) {
    for (int column = threadIdx.x; column < columns; column += kThreads) {
      StoreResult<P>(args, first_head, column, MergeSplits<P>(group, column, 0, 1, partials));
    }
  } else {
    const int column = threadIdx.x % kColumns;
    const int part = threadIdx.x / kColumns;
    if (column < columns) {
      memory[threadIdx.x] = MergeSplits<P>(group, column, part, kParts, partials);
    }
    __syncthreads();
    if (part != 0 || column >= columns) return;
    Column sum = memory[column];
    for (int other = 1; other < kParts; ++other) {
      const Column one[] = {memory[other * kColumns + column]};
      AddColumns(one, &sum);
    }
    StoreResult<P>(args, first_head, column, sum);
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

// ---- The kernel --------------------------------------------------------------------------------

// A team attends to its share of the row's keys.
template <typename P>
__device__ __forceinline__ void AttendToShare(const DecodeAttentionArgs& args, float scale,
                                              int team, int slice, const TokenList<P>& list,
                                              Share* share, std::byte* stages, State<P>* state) {
  const int row = blockIdx.z;
  const int warp_lane = threadIdx.x % kWarp;
  const int team_lane = slice * kWarp + warp_lane;
  const bool leads = slice == 0;  // one warp lists the tokens for all of the team
  Initialize<P>(args, row, slice, scale, state);
  uint32_t next = 0, listed = 0;
  if (leads) {
    if (warp_lane == 0) {
      *share = ShareOf(args, row, blockIdx.y * P::kTeams + team, gridDim.y * P::kTeams);
    }
    __syncwarp();
    ListTokens<P>(args, *share, warp_lane, P::kStages * P::kStepTokens, list, &next, &listed);
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
      ListTokens<P>(args, *share, warp_lane, ahead + P::kStepTokens, list, &next, &listed);
    }
    SynchronizeTeam<P>(team);
    filled = *list.filled;
    CopyStep<P>(args, list, ahead, filled, team_lane, stage);
  }
}

template <typename P>
__global__ void __launch_bounds__(kThreads, kBlocksPerMultiprocessor)
    DecodeAttentionKernel(const __grid_constant__ DecodeAttentionArgs args, float scale,
                          Partials all_partials) {
  extern __shared__ __align__(16) std::byte memory[];
  __shared__ Share shares[P::kTeams];
  __shared__ uint32_t filled[P::kTeams];
  __shared__ bool is_last;
  const int warp = threadIdx.x / kWarp;
  const int team = warp / P::kSlices;
  const int slice = warp % P::kSlices;
  State<P> state;
  state.lane = threadIdx.x % P::kLanes;
  state.subgroup = threadIdx.x % kWarp / P::kLanes;

  auto* keys = reinterpret_cast<const std::byte**>(memory + P::kStagesBytes);
  auto* distances = reinterpret_cast<uint32_t*>(keys + P::kTeams * P::kRing);
  const TokenList<P> list = {keys + team * P::kRing, distances + team * P::kRing, filled + team};
  AttendToShare<P>(args, scale, team, slice, list, shares + team,
                   memory + team * P::kStages * P::kStageBytes, &state);

  __syncthreads();  // no team needs its stages any more
  const MergeMemory<P> merge(memory);
  StoreWarp<P>(team, slice, &state, merge);
  __syncthreads();
  const int group = GroupOf(args);
  const int64_t index = int64_t{blockIdx.z} * gridDim.x + blockIdx.x;  // of the row and KV head
  const int64_t before = index * gridDim.y * group;
  const Partials partials = {all_partials.outputs + before * P::kDim,
                             all_partials.statistics + before};
  StorePartial<P>(group, merge, partials);

  __syncthreads();
  if (threadIdx.x == 0) {
    auto* counter = static_cast<unsigned*>(args.workspace) + index;
    is_last = CountBlock(counter) == gridDim.y - 1;
    if (is_last) *counter = 0;  // for the next launch
  }
  __syncthreads();
  if (!is_last) return;
  MergePartials<P>(args, blockIdx.z, partials, reinterpret_cast<Column*>(memory));
}

// ---- The launch --------------------------------------------------------------------------------

// The same for any number of rows, so that a row's bits do not depend on the others.
int NumSplits(int64_t kv_heads, int multiprocessors) {
  const int64_t blocks = int64_t{kBlocksPerMultiprocessor} * multiprocessors;
  return static_cast<int>(std::clamp<int64_t>(blocks / kv_heads, 1, kMaxSplits));
}

template <typename P>
absl::Status Launch(const DecodeAttentionArgs& args, Stream stream) {
  auto* kernel = DecodeAttentionKernel<P>;
  LONGSPAN_RETURN_IF_ERROR(ToStatus(
      cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, P::kSharedBytes),
      "shared memory of decode attention"));
  LONGSPAN_RETURN_IF_ERROR(
      ToStatus(cudaFuncSetAttribute(kernel, cudaFuncAttributePreferredSharedMemoryCarveout,
                                    cudaSharedmemCarveoutMaxShared),
               "shared memory of decode attention"));
  const AttentionShape& shape = args.shape;
  const int splits = NumSplits(shape.kv_heads, args.multiprocessors);
  const int64_t partials = int64_t{args.num_rows} * splits * shape.heads;
  Partials memory;
  memory.outputs = reinterpret_cast<float*>(static_cast<std::byte*>(args.workspace) +
                                            PadCounters(args.max_rows * shape.kv_heads));
  memory.statistics = reinterpret_cast<Statistics*>(memory.outputs + partials * shape.head_dim);
  const auto scale = static_cast<float>(shape.score_scale * kLog2E /
                                        std::sqrt(static_cast<double>(shape.head_dim)));
  const dim3 grid(static_cast<unsigned>(shape.kv_heads), splits, args.num_rows);
  kernel<<<grid, kThreads, P::kSharedBytes, stream>>>(args, scale, memory);
  return CheckLaunch("decode attention");
}

template <typename T, int kDim>
absl::Status LaunchForGroup(const DecodeAttentionArgs& args, Stream stream) {
  const int64_t group = args.shape.group();
  if (group == 1) return Launch<Tiling<T, kDim, 1, 1>>(args, stream);
  if (group == 2) return Launch<Tiling<T, kDim, 2, 1>>(args, stream);
  if (group <= 4) return Launch<Tiling<T, kDim, kMaxThreadHeads, 1>>(args, stream);
  if (group <= 8) return Launch<Tiling<T, kDim, kMaxThreadHeads, 2>>(args, stream);
  return Launch<Tiling<T, kDim, kMaxThreadHeads, kMaxGroup / kMaxThreadHeads>>(args, stream);
}

absl::Status UnsupportedHeadDim(int64_t head_dim) {
  return absl::UnimplementedError(absl::StrCat(
      "decode attention on GPUs supports head_dim 16, 32, 64, 128 and 256, not ", head_dim));
}

template <typename T>
absl::Status LaunchForDim(const DecodeAttentionArgs& args, Stream stream) {
  switch (args.shape.head_dim) {
    case 16:
      return LaunchForGroup<T, 16>(args, stream);
    case 32:
      return LaunchForGroup<T, 32>(args, stream);
    case 64:
      return LaunchForGroup<T, 64>(args, stream);
    case 128:
      return LaunchForGroup<T, 128>(args, stream);
    case 256:
      return LaunchForGroup<T, 256>(args, stream);
    default:
      return UnsupportedHeadDim(args.shape.head_dim);
  }
}

absl::Status CheckArgs(const DecodeAttentionArgs& args) {
  const AttentionShape& shape = args.shape;
  const ShardGeometry& geometry = args.geometry;
  if (shape.kv_heads < 1 || shape.heads < 1 || shape.heads % shape.kv_heads != 0) {
    return absl::InvalidArgumentError(absl::StrCat(
        "decode attention: ", shape.heads, " heads cannot share ", shape.kv_heads, " KV heads"));
  }
  if (shape.group() > kMaxGroup) {
    return absl::UnimplementedError(absl::StrCat("decode attention on GPUs supports up to ",
                                                 kMaxGroup, " heads a KV head, not ",
                                                 shape.group()));
  }
  if (args.key_offset % 16 != 0 || args.value_offset % 16 != 0) {
    return absl::InvalidArgumentError(absl::StrCat("decode attention: keys at ", args.key_offset,
                                                   " and values at ", args.value_offset,
                                                   " bytes of a page, not multiples of 16"));
  }
  if (!IsAligned(args.queries, 16) || !IsAligned(args.output, 16)) {
    return absl::InvalidArgumentError(
        "decode attention: queries and output must be aligned to 16 bytes");
  }
  if (args.rope.half != shape.head_dim / 2) {
    return absl::InvalidArgumentError(absl::StrCat("decode attention: RoPE of ", args.rope.half,
                                                   " pairs for head_dim ", shape.head_dim));
  }
  if (geometry.stripe_tokens < 1 || geometry.rank < 0 || geometry.rank >= geometry.num_ranks) {
    return absl::InvalidArgumentError(absl::StrCat("decode attention: rank ", geometry.rank, " of ",
                                                   geometry.num_ranks, ", stripes of ",
                                                   geometry.stripe_tokens, " tokens"));
  }
  if (args.num_rows < 0 || args.num_rows > args.max_rows || args.num_rows > kMaxRows ||
      args.multiprocessors < 1 || args.initial_tokens < 0 || args.local_tokens < 0 ||
      args.far_position < 0) {
    return absl::InvalidArgumentError(absl::StrCat(
        "decode attention: ", args.num_rows, " rows of at most ", args.max_rows, ", ",
        args.multiprocessors, " multiprocessors, ", args.initial_tokens, " initial and ",
        args.local_tokens, " local tokens, far position ", args.far_position));
  }
  return absl::OkStatus();
}

}  // namespace

int64_t DecodeAttentionWorkspaceBytes(const AttentionShape& shape, int max_rows,
                                      int multiprocessors) {
  const int64_t partials =
      int64_t{max_rows} * NumSplits(shape.kv_heads, multiprocessors) * shape.heads;
  return PadCounters(max_rows * shape.kv_heads) +
         partials * (shape.head_dim * static_cast<int64_t>(sizeof(float)) +
                     static_cast<int64_t>(sizeof(Statistics)));
}

absl::Status DecodeAttention(const DecodeAttentionArgs& args, Stream stream) {
  LONGSPAN_RETURN_IF_ERROR(CheckArgs(args));
  if (args.num_rows == 0) return absl::OkStatus();
  return WithCacheType(args.dtype, [&]<typename T>() { return LaunchForDim<T>(args, stream); });
}

}  // namespace longspan::cuda
