#ifndef LONGSPAN_KERNELS_CUDA_DECODE_ATTENTION_SHARE_CUH_
#define LONGSPAN_KERNELS_CUDA_DECODE_ATTENTION_SHARE_CUH_

#include <cuda_runtime.h>

#include <algorithm>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <limits>

#include "kernels/cuda/async_copy.cuh"
#include "kernels/cuda/decode_attention.h"
#include "kernels/cuda/launch.cuh"

// Who attends to what in decode attention: the grid is KV heads x splits x rows, and the teams of a
// split's block (one or more warps each) take equal, consecutive parts of the row's keys: of those
// that are known before the selection is, and of the selected ones. A team lists the addresses of
// its next tokens, and copies their rows to shared memory some steps ahead.
namespace longspan::cuda::decode {

constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr int kWarp = 32;
constexpr unsigned kAllLanes = 0xffffffff;
constexpr int kBlocksPerMultiprocessor = 2;
constexpr int kMaxSplits = 64;  // merging more takes longer than it saves

// Divides as `/` does, for any 32-bit numbers, in five instructions (Granlund and Montgomery,
// "Division by Invariant Integers using Multiplication").
struct Divisor {
  uint32_t value = 1;
  uint32_t reciprocal =
      1;  // with 2^32: 2^(32 + bits) / value, rounded up; bits = log2 of value, up
  uint32_t first_shift = 0, second_shift = 0;

  Divisor() = default;
  explicit Divisor(uint32_t divisor) : value(divisor) {
    const int bits = std::bit_width(divisor - 1);
    reciprocal = static_cast<uint32_t>((((uint64_t{1} << bits) - divisor) << 32) / divisor + 1);
    first_shift = std::min(bits, 1);
    second_shift = std::max(bits - 1, 0);
  }
};

__device__ __forceinline__ uint32_t operator/(uint32_t number, const Divisor& by) {
  const uint32_t high = __umulhi(by.reciprocal, number);
  return (high + ((number - high) >> by.first_shift)) >> by.second_shift;
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

struct Interval {
  uint32_t begin, end;
};

// What one team reads, part by part, and a step is of one part. Near and initial tokens are known
// before the selection is.
enum class Part { kNear, kInitial, kSelected };
constexpr int kParts = 3;

struct Share {
  const std::byte* const* pages;
  const uint64_t* candidates;  // of the row, of which the own ones are read
  uint32_t position;           // of the query
  // Local indices of near and of initial tokens, and candidates: these up to the most that there
  // may be, until ListTokens has read how many there are.
  Interval parts[kParts];

  __device__ Interval& of(Part part) { return parts[static_cast<int>(part)]; }
  __device__ const Interval& of(Part part) const { return parts[static_cast<int>(part)]; }
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

// Of a row's tokens the part `unit`: of the known ones, and of the selected ones, of which a
// candidate counts as 1/num_ranks token. Who has a step more of the ones is the last to have one
// more of the others.
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
  const uint32_t near_weight = (num_near + (kStep - 1)) / kStep * kStep;
  const uint32_t selected_weight = (num_selected + ranks - 1) / job.num_ranks;

  const Interval known = UnitOf<kStep>(job, unit, near_weight + num_initial);
  const Interval near = PartOf(known, 0, num_near);
  const Interval selected =
      PartOf(UnitOf<kStep>(job, job.units.value - 1 - unit, selected_weight), 0, selected_weight);

  Share share;
  share.pages = decode_row.pages;
  share.candidates = args.selected + row * args.selected_stride;
  share.position = position;
  share.of(Part::kNear) = {near_first + near.begin, near_first + near.end};
  share.of(Part::kInitial) = PartOf(known, near_weight, num_initial);
  share.of(Part::kSelected) = {min(selected.begin * ranks, num_selected),
                               min(selected.end * ranks, num_selected)};
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

// The own token of this local index.
__device__ __forceinline__ Token OwnTokenAt(const Job& job, uint32_t position, uint32_t local) {
  const auto rank = static_cast<uint32_t>(job.args.geometry.rank);
  const uint32_t page = local / job.stripe_tokens;
  const uint32_t slot = local - page * job.stripe_tokens.value;
  const uint32_t at = (page * job.num_ranks.value + rank) * job.stripe_tokens.value + slot;
  return {true, {page, slot, rank}, position - at};
}

__device__ __forceinline__ Token CandidateToken(const Job& job, uint32_t position,
                                                uint64_t candidate) {
  const uint32_t at = 0xffffffffu - static_cast<uint32_t>(candidate);
  const Place place = PlaceOf(job, at);
  return {place.owner == static_cast<uint32_t>(job.args.geometry.rank), place, position - at};
}

// The part's token or candidate `index`, which may lie past its end. Reads how many candidates
// there are, and the candidate at the same time.
__device__ __forceinline__ Token TokenAt(const Job& job, int row, Part part, uint32_t index,
                                         const Share& share, uint32_t* end) {
  Token token = {false, {}, 0};
  if (part == Part::kSelected) {
    uint64_t candidate = 0;
    if (index < *end) candidate = __ldcg(share.candidates + index);
    const auto counted = static_cast<uint32_t>(__ldcg(job.args.selected_counts + row));
    *end = max(share.of(part).begin, min(*end, counted));
    if (index < *end) token = CandidateToken(job, share.position, candidate);
  } else if (index < *end) {
    token = OwnTokenAt(job, share.position, index);
  }
  if (part != Part::kNear && job.args.far_is_apart) {
    token.distance = static_cast<uint32_t>(job.args.far_position);
  }
  return token;
}

// Lists tokens of a part until there are `want`, or no more. By one whole warp, of kSelected after
// WaitForPredecessors; the part begins with those not looked at yet, `filled` counts those listed.
template <typename P>
__device__ __forceinline__ void ListTokens(const Job& job, int row, int lane, Part part,
                                           uint32_t want, const TokenList<P>& list, Share* share,
                                           uint32_t* next, uint32_t* filled) {
  const DecodeAttentionArgs& args = job.args;
  const int64_t token_bytes = args.shape.kv_heads * P::kRowBytes;
  uint32_t end = share->of(part).end;
  while (*filled < want && *next < end) {
    const Token token = TokenAt(job, row, part, *next + lane, *share, &end);
    const unsigned owned = __ballot_sync(kAllLanes, token.own);
    if (token.own) {
      const uint32_t slot = list.Slot(*filled + __popc(owned & ((1u << lane) - 1)));
      list.keys[slot] = share->pages[token.place.page] + args.key_offset +
                        token.place.slot * token_bytes + int64_t{blockIdx.x} * P::kRowBytes;
      list.distances[slot] = token.distance;
    }
    *filled += __popc(owned);
    *next = min(*next + kWarp, end);
    if (*next == end && lane < (P::kStepTokens - *filled % P::kStepTokens) % P::kStepTokens) {
      // The last step is computed whole.
      const uint32_t slot = list.Slot(*filled + lane);
      list.keys[slot] = reinterpret_cast<const std::byte*>(args.queries);
      list.distances[slot] = 0;
    }
  }
  __syncwarp();
  if (lane == 0) {
    share->of(part).end = end;
    *list.filled = *filled;
  }
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
    const int own_token = team_lane / kRowPieces, own_part = team_lane % kRowPieces;
    const std::byte* const* keys = list.keys + list.Slot(first) + own_token;
    const std::byte* from[kSweeps];  // read before the first copy, which no read passes
#pragma unroll
    for (int sweep = 0; sweep < kSweeps; ++sweep) {
      from[sweep] = keys[sweep * P::kTeamLanes / kRowPieces] + own_part * 16;
    }
    const unsigned own = static_cast<unsigned>(__cvta_generic_to_shared(stage)) +
                         own_token * P::kRowBytes + P::Piece(own_token, own_part) * 16;
#pragma unroll
    for (int sweep = 0; sweep < kSweeps; ++sweep) {
      // All of these are powers of 2, and rows aligned to 128 bytes or their size: what is skipped
      // has no bit in common with the lane's own, and a token's Piece moves pieces by xor.
      const int skipped = sweep * P::kTeamLanes;
      const int token = skipped / kRowPieces, part = skipped % kRowPieces;
      const unsigned to = (own ^ P::Piece(token, 0) * 16) + token * P::kRowBytes + part * 16;
      const bool is_present = own_token + token < present;
      CopyAsync(to, from[sweep] + part * 16, is_present);
      CopyAsync(to + P::kHalfStageBytes, from[sweep] + part * 16 + to_value, is_present);
    }
  }
  CommitCopies();
}

}  // namespace longspan::cuda::decode

#endif  // LONGSPAN_KERNELS_CUDA_DECODE_ATTENTION_SHARE_CUH_
