#ifndef LONGSPAN_KERNELS_CUDA_DECODE_ATTENTION_SHARE_CUH_
#define LONGSPAN_KERNELS_CUDA_DECODE_ATTENTION_SHARE_CUH_

#include <cuda_runtime.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <limits>

#include "kernels/cuda/async_copy.cuh"
#include "kernels/cuda/decode_attention.h"
#include "kernels/cuda/launch.cuh"

// Who attends to what in decode attention: the grid is KV heads x splits x rows, and the teams of a
// split's block (one or more warps each) take equal, consecutive parts of the row's keys. A team
// lists the addresses of its next tokens, and copies their rows to shared memory some steps ahead.
namespace longspan::cuda::decode {

constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr int kWarp = 32;
constexpr unsigned kAllLanes = 0xffffffff;
constexpr int kBlocksPerMultiprocessor = 2;
constexpr int kMaxSplits = 64;  // merging more takes longer than it saves

// Divides as `/` does, for any 32-bit numbers, in a fraction of the time.
struct Divisor {
  uint32_t value = 1;
  uint64_t reciprocal = 0;  // times 2^64, rounded up; unused for 1

  Divisor() = default;
  explicit Divisor(uint32_t divisor)
      : value(divisor), reciprocal(std::numeric_limits<uint64_t>::max() / divisor + 1) {}
};

__device__ __forceinline__ uint32_t operator/(uint32_t number, const Divisor& by) {
  return by.value == 1 ? number : static_cast<uint32_t>(__umul64hi(by.reciprocal, number));
}

// A sum of weighted values with weights relative to 2^max, and the sum of weights.
struct Statistics {
  float max;
  float sum;
};

// What the splits of one row and KV head found, of all of them in turn: outputs [splits, group,
// head_dim], not normalised, and statistics [splits, group].
struct Partials {
  float* outputs;
  Statistics* statistics;
};

// What a launch is given.
struct Job {
  DecodeAttentionArgs args;
  float scale;  // of scores, base 2
  Partials partials;
  Divisor stripe_tokens, num_ranks, units;

  __device__ int group() const {
    return static_cast<int>(args.shape.heads) / static_cast<int>(args.shape.kv_heads);
  }
};

__device__ __forceinline__ float Exp2(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));  // as exp2f, but subnormals are 0
  return y;
}

// What exponents are taken relative to: nothing has been seen where the maximum is -inf.
__device__ __forceinline__ float Shift(float max) { return max == -kInfinity ? 0.0f : max; }

// ---- A team's tokens ---------------------------------------------------------------------------

// Positions fit 32 bits, and 64-bit divisions take long.
struct Place {
  uint32_t page;  // of its owner
  uint32_t slot;
  uint32_t owner;
};

__device__ __forceinline__ Place PlaceOf(const Job& job, uint32_t position) {
  const uint32_t stripe = position / job.stripe_tokens;
  const uint32_t page = stripe / job.num_ranks;
  return {page, position - stripe * job.stripe_tokens.value, stripe - page * job.num_ranks.value};
}

__device__ __forceinline__ uint32_t OwnedBefore(const Job& job, uint32_t position) {
  const Place place = PlaceOf(job, position);
  const uint32_t tokens = job.stripe_tokens.value;
  const auto rank = static_cast<uint32_t>(job.args.geometry.rank);
  return place.page * tokens + (place.owner < rank ? 0 : place.owner == rank ? place.slot : tokens);
}

// What one team reads: `near` own tokens from local index near_begin on, `initial` ones from
// initial_begin on, then those of `selected` candidates that are own. Near tokens come first, for
// they are known before the selection is.
struct Share {
  const std::byte* const* pages;
  const uint64_t* candidates;
  uint32_t position;  // of the query
  uint32_t near_begin, near;
  uint32_t initial_begin, initial;
  uint32_t first_candidate;
  uint32_t selected;  // at most; TakeSelection makes it exact
  bool has_selection;

  __device__ uint32_t known() const { return near + initial; }
  __device__ uint32_t total() const { return near + initial + selected; }
};

__device__ __forceinline__ void TakeSelection(const Job& job, int row, Share* share) {
  WaitForPredecessors();
  const auto counted = static_cast<uint32_t>(__ldcg(job.args.selected_counts + row));
  const uint32_t left = counted > share->first_candidate ? counted - share->first_candidate : 0;
  share->selected = min(share->selected, left);
  share->has_selection = true;
}

struct Interval {
  uint32_t begin, end;
};

// The part of [first, first + count) that lies in `whole`, counted from `first`.
__device__ __forceinline__ Interval PartOf(Interval whole, uint32_t first, uint32_t count) {
  const uint32_t begin = whole.begin > first ? whole.begin - first : 0;
  const uint32_t end = whole.end > first ? whole.end - first : 0;
  return {min(begin, count), min(end, count)};
}

// The part `unit` of a weight, in whole steps.
template <uint32_t kStep>
__device__ __forceinline__ Interval UnitOf(const Job& job, uint32_t unit, uint32_t weight) {
  const uint32_t steps = (weight + (kStep - 1)) / kStep;
  const uint32_t each = steps / job.units;
  const uint32_t rest = steps - each * job.units.value;
  const uint32_t begin = each * unit + min(unit, rest);
  return {begin * kStep, (begin + each + (unit < rest ? 1 : 0)) * kStep};
}

// Of a row's tokens the part `unit`. A candidate counts as 1/num_ranks token.
template <uint32_t kStep>
__device__ __forceinline__ Share ShareOf(const Job& job, int row, uint32_t unit) {
  const DecodeAttentionArgs& args = job.args;
  const DecodeRow decode_row = args.rows[row];
  const auto position = static_cast<uint32_t>(decode_row.position);
  const int64_t lo = max(int64_t{0}, decode_row.position - args.local_tokens);
  const bool all_near = args.dense || lo <= args.initial_tokens;
  const uint32_t ranks = job.num_ranks.value;
  const uint32_t near_first = all_near ? 0 : OwnedBefore(job, static_cast<uint32_t>(lo));
  const uint32_t num_near = OwnedBefore(job, position + 1) - near_first;
  uint32_t num_initial = 0, num_selected = 0;
  if (!all_near) {
    num_initial = OwnedBefore(job, static_cast<uint32_t>(args.initial_tokens));
    // How many there are is not known yet: mostly as many as there may be.
    num_selected = args.selected != nullptr ? static_cast<uint32_t>(args.selected_stride) : 0;
  }
  const uint32_t selected_weight = (num_selected + ranks - 1) / job.num_ranks;

  const Interval mine = UnitOf<kStep>(job, unit, num_near + num_initial + selected_weight);
  const Interval near = PartOf(mine, 0, num_near);
  const Interval initial = PartOf(mine, num_near, num_initial);
  const Interval selected = PartOf(mine, num_near + num_initial, selected_weight);

  Share share;
  share.pages = decode_row.pages;
  share.position = position;
  share.initial_begin = initial.begin;
  share.initial = initial.end - initial.begin;
  share.first_candidate = min(selected.begin * ranks, num_selected);
  share.candidates = args.selected + row * args.selected_stride + share.first_candidate;
  share.selected = min(selected.end * ranks, num_selected) - share.first_candidate;
  share.has_selection = share.selected == 0;
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

struct Token {
  bool own;
  Place place;
  uint32_t distance;
};

// The share's token or candidate `index`, which may lie past its end.
__device__ __forceinline__ Token TokenAt(const Job& job, const Share& share, uint32_t index) {
  const auto rank = static_cast<uint32_t>(job.args.geometry.rank);
  const bool far = index >= share.near;
  Token token = {index < share.total(), {0, 0, rank}, 0};
  if (!token.own) return token;
  uint32_t position;
  if (index >= share.known()) {
    position =
        0xffffffffu - static_cast<uint32_t>(__ldcg(share.candidates + index - share.known()));
    token.place = PlaceOf(job, position);
    token.own = token.place.owner == rank;
  } else {
    const uint32_t local =
        far ? share.initial_begin + (index - share.near) : share.near_begin + index;
    token.place.page = local / job.stripe_tokens;
    token.place.slot = local - token.place.page * job.stripe_tokens.value;
    position = (token.place.page * job.num_ranks.value + rank) * job.stripe_tokens.value +
               token.place.slot;
  }
  token.distance = far && job.args.far_is_apart ? static_cast<uint32_t>(job.args.far_position)
                                                : share.position - position;
  return token;
}

// Lists tokens until there are `want`, or no more. By one whole warp; `next` counts the share's
// tokens and candidates looked at, `filled` those listed.
template <typename P>
__device__ __forceinline__ void ListTokens(const Job& job, int row, int lane, uint32_t want,
                                           const TokenList<P>& list, Share* shared_share,
                                           uint32_t* next, uint32_t* filled) {
  Share& share = *shared_share;
  const DecodeAttentionArgs& args = job.args;
  const int64_t token_bytes = args.shape.kv_heads * P::kRowBytes;
  while (*filled < want && *next < share.total()) {
    if (!share.has_selection && *next + kWarp > share.known()) TakeSelection(job, row, &share);
    const uint32_t total = share.total();
    const Token token = TokenAt(job, share, *next + lane);
    const unsigned owned = __ballot_sync(kAllLanes, token.own);
    if (token.own) {
      const uint32_t slot = list.Slot(*filled + __popc(owned & ((1u << lane) - 1)));
      list.keys[slot] = share.pages[token.place.page] + args.key_offset +
                        token.place.slot * token_bytes + int64_t{blockIdx.x} * P::kRowBytes;
      list.distances[slot] = token.distance;
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

// Starts the copy of a step's keys and values. Rows past the end of the list become zeros, for a
// weight of 0 would not silence a NaN in what lay there before. The 16-byte pieces of a row lie
// where P::Piece(token, piece) says.
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
      std::byte* to = stage + token * P::kRowBytes + P::Piece(token, part) * 16;
      CopyAsync(to, from, token < present);
      CopyAsync(to + P::kHalfStageBytes, from + to_value, token < present);
    }
  }
  CommitCopies();
}

}  // namespace longspan::cuda::decode

#endif  // LONGSPAN_KERNELS_CUDA_DECODE_ATTENTION_SHARE_CUH_
