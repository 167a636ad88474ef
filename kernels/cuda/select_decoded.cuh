#ifndef LONGSPAN_KERNELS_CUDA_SELECT_DECODED_CUH_
#define LONGSPAN_KERNELS_CUDA_SELECT_DECODED_CUH_

#include <cuda_runtime.h>

#include <cstdint>

#include "kernels/cuda/async_copy.cuh"
#include "kernels/cuda/decode_guess.cuh"
#include "kernels/cuda/decode_row_keys.cuh"
#include "kernels/cuda/grid_barrier.cuh"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/radix_select.cuh"
#include "kernels/cuda/select.h"
#include "kernels/cuda/select_entries.cuh"
#include "kernels/cuda/select_lists.cuh"
#include "kernels/cuda/select_problem.cuh"

// The selection of a decoded row, whose scores decode_score.cuh left behind, mostly the short way:
// beside the scores lie lists of those that are probably taken, and their histogram. It says in
// which bin the threshold lies; every block that has a share looks through all lists for what is in
// that bin, orders these few, and writes what is taken of its share of lists. The other blocks only
// wait, as more would be in each other's way. If the lists hold fewer than top_k entries or too
// many, or too many are alike, the team goes the long way (radix_select.cuh).
namespace longspan::cuda::selection {

// Lists in a share, of the first block of as many.
constexpr int kShare = 4;

struct DecodedMemory {
  BlockMemory block;
  uint32_t lengths[kMaxTeam + kShare];  // of the members' lists
  uint32_t before;                      // what is taken of lists before the share
  Way way;
};

template <typename T>
__device__ T Load(const void* from) {
  return __ldcg(static_cast<const T*>(from));
}

// What is taken of the lists: the bits from `certain` on, and the `left` first of those that are
// among the `width` + 1 from `lowest` on, of which there are `inside`.
struct Boundary {
  uint32_t certain;
  uint32_t lowest, width;
  uint32_t left, inside;
};

// Whether the lists have all that is taken, and few enough are inside the boundary. own, first:
// headers of the thread's list and of the first one, as they were read; counts: of the thread's
// bins.
__device__ bool FindBoundary(const Problem& problem, uint4 own, uint2 first,
                             const uint32_t (&counts)[kThreadBins], DecodedMemory& memory,
                             Boundary* boundary) {
  const auto [own_lowest, own_shift, entries, unused] = own;
  const auto [lowest, shift] = first;
  // Who had nothing to score guessed nothing.
  const bool agrees = entries == 0 || (own_lowest == lowest && own_shift == shift &&
                                       entries <= static_cast<uint32_t>(problem.list_words));
  if (threadIdx.x < kMaxTeam + kShare) {
    memory.lengths[threadIdx.x] = threadIdx.x < problem.teams.size ? entries : 0;
  }
  if (threadIdx.x == 0) memory.before = memory.block.num_ranked = 0;
  if (__syncthreads_and(agrees) == 0) return false;
  const Bin bin = FindBin(counts, static_cast<uint32_t>(problem.top_k), memory.block);
  if (bin.index < 0) {
    *boundary = {1, kNoTie, 0, 0, 0};  // there are no more than that: all are taken
    return lowest == kListsAllGuess.lowest;
  }
  const bool is_last = bin.index == kBins - 1;
  boundary->lowest = lowest + (static_cast<uint32_t>(bin.index) << shift);
  boundary->width = is_last ? kNoTie - 1 - boundary->lowest : (1u << shift) - 1;
  boundary->certain = boundary->lowest + boundary->width + 1;
  boundary->left = static_cast<uint32_t>(problem.top_k) - bin.before;
  boundary->inside = bin.count;
  return bin.count <= kRanked;
}

// The first block of a team tells those without a share which way to go.
__device__ void PostWay(DecodeState* state, uint32_t row, Way way) {
  if (threadIdx.x > 0) return;
  StoreRelaxed(&state->way, static_cast<unsigned long long>(way) << 32 | row);
}

__device__ Way AwaitWay(DecodeState* state, uint32_t row, DecodedMemory& memory) {
  if (threadIdx.x == 0) {
    unsigned long long word;
    while (static_cast<uint32_t>(word = LoadRelaxed(&state->way)) != row) __nanosleep(100);
    memory.way = static_cast<Way>(word >> 32);
  }
  __syncthreads();
  return memory.way;
}

// Starts to copy the first 1 << preload_shift words of `count` lists.
__device__ void CopyBeginnings(const Problem& problem, const uint32_t* lists, int count,
                               uint32_t* words) {
  const int shift = problem.preload_shift;
#pragma unroll 1
  for (int i = threadIdx.x * 4; i < count << shift; i += kThreads * 4) {
    const int list = i >> shift;
    CopyAsync(words + i, lists + list * problem.list_words + (i - (list << shift)), true);
  }
}

// Counts what is certainly taken of lists before the share, and collects what is inside the
// boundary, ordered as a list of entries would be.
__device__ void LookThrough(const Problem& problem, const Boundary& boundary, const uint32_t* lists,
                            const uint32_t* words, int share_begin, DecodedMemory& memory) {
  const int shift = problem.preload_shift, members = problem.teams.size;
  uint32_t before = 0;
  const auto look = [&](uint32_t bits, int member, int index) {
    before += bits >= boundary.certain && member < share_begin;
    if (bits - boundary.lowest > boundary.width) return;
    memory.block.ranked[atomicAdd(&memory.block.num_ranked, 1)] =
        ListWord(bits, member * problem.list_words + index);
  };
#pragma unroll 1
  for (int i = threadIdx.x; i < members << shift; i += kThreads) {
    look(words[i], i >> shift, i & ((1 << shift) - 1));
  }
#pragma unroll 1
  for (int member = threadIdx.x / 32; member < members; member += kWarps) {
    const auto length = static_cast<int>(memory.lengths[member]);
#pragma unroll 1
    for (int i = (1 << shift) + threadIdx.x % 32; i < length; i += 32) {
      look(__ldcg(lists + member * problem.list_words + i), member, i);
    }
  }
  before = __reduce_add_sync(0xffffffffu, before);
  if (threadIdx.x % 32 == 0) atomicAdd(&memory.before, before);
  __syncthreads();
}

// The first word that is taken, of all in the order of lists; counts those inside the boundary that
// are taken of lists before the share.
__device__ unsigned long long FirstTaken(const Problem& problem, const Boundary& boundary,
                                         int share_begin, DecodedMemory& memory) {
  unsigned long long first = static_cast<unsigned long long>(min(boundary.lowest, boundary.certain))
                             << 32;
  if (boundary.inside > boundary.left) {
    first = WordOfRank(memory.block.ranked, static_cast<int>(boundary.inside), boundary.left,
                       memory.block);
  }
  if (threadIdx.x < boundary.inside) {
    const unsigned long long word = memory.block.ranked[threadIdx.x];
    const uint32_t at = 0xffffffffu - static_cast<uint32_t>(word);
    if (word >= first && at < static_cast<uint32_t>(share_begin * problem.list_words)) {
      atomicAdd(&memory.before, 1u);
    }
  }
  __syncthreads();
  return first;
}

// Writes what is taken of the share; returns how many are taken up to its end. words, entries: of
// the beginnings of its lists.
template <typename Row>
__device__ uint32_t WriteShare(const Row& row, const Problem& problem, unsigned long long first,
                               const DecodeLists& lists, const uint32_t* words,
                               const uint32_t* entries, int share_begin, DecodedMemory& memory,
                               Candidate* out) {
  const int shift = problem.preload_shift;
  uint32_t taken = memory.before, ends[kShare];
#pragma unroll
  for (int i = 0; i < kShare; ++i) {
    ends[i] = memory.lengths[share_begin + i] + (i > 0 ? ends[i - 1] : 0);
  }
#pragma unroll 1
  for (uint32_t begin = 0; begin < ends[kShare - 1]; begin += kThreads) {
    uint32_t index = begin + threadIdx.x, list = 0, skipped = 0;
#pragma unroll
    for (int i = 0; i < kShare; ++i) {
      if (index >= ends[i]) list = i + 1, skipped = ends[i];
    }
    index -= skipped;
    uint32_t bits = kNotAScore, entry = 0;
    const uint32_t at = (share_begin + list) * problem.list_words + index;
    if (list < kShare && index >> shift == 0) {
      bits = words[(list << shift) + index];
      entry = entries[(list << shift) + index];
    } else if (list < kShare) {
      bits = __ldcg(lists.bits + at);
      entry = __ldcg(lists.entries + at);
    }
    const bool is_taken = bits != kNotAScore && ListWord(bits, at) >= first;
    const auto sums = SumOverBlock(static_cast<uint32_t>(is_taken), memory.block);
    if (is_taken) out[taken + sums.before] = MakeCandidate(bits, row.Position(entry));
    taken += sums.total;
  }
  return taken;
}

// By the blocks that have a share: its entries by the short way. Returns how many are taken up to
// its end, or -1 if it is no way. words: shared memory for the beginnings of lists.
//
// Loops stay loops here: each instruction is needed once, and comes from far away.
template <typename Row>
__device__ int SelectFromLists(const Row& row, const Problem& problem, DecodeState* state,
                               uint32_t* words, DecodedMemory& memory, Candidate* out) {
  const int thread = threadIdx.x, members = problem.teams.size;
  const int share_begin = problem.teams.Member(), in_share = min(kShare, members - share_begin);
  const DecodeLists lists = problem.DecodeListsOf(problem.teams.Team());
  // All that is read, before any of it is used. One of the histograms is all zeros.
  static_assert(kThreadBins == 4);
  const uint32_t* const bins = state->histograms[0] + (kThreads - 1 - thread) * kThreadBins;
  const auto header = Load<uint4>(state->headers + min(thread, members - 1));
  const auto first_header = Load<uint4>(state->headers);
  const auto a = Load<uint4>(bins), b = Load<uint4>(bins + kBins);
  uint32_t* const entries = words + (members << problem.preload_shift);
  CopyBeginnings(problem, lists.bits, members, words);
  CopyBeginnings(problem, lists.entries + share_begin * problem.list_words, in_share, entries);
  CommitCopies();
  Boundary boundary;
  const bool is_short =
      FindBoundary(problem, header, {first_header.x, first_header.y},
                   {a.x + b.x, a.y + b.y, a.z + b.z, a.w + b.w}, memory, &boundary);
  if (share_begin == 0) PostWay(state, first_header.w, is_short ? Way::kShort : Way::kLong);
  AwaitCopies<0>();
  __syncthreads();
  if (!is_short) return -1;
  LookThrough(problem, boundary, lists.bits, words, share_begin, memory);
  const unsigned long long first = FirstTaken(problem, boundary, share_begin, memory);
  return static_cast<int>(WriteShare(row, problem, first, lists,
                                     words + (share_begin << problem.preload_shift), entries,
                                     share_begin, memory, out));
}

// Apart from the short way, for which registers are few.
__device__ __noinline__ void GoLongWay(const DecodeSelectArgs& args, const Problem& problem,
                                       unsigned long long* words, BlockMemory& memory) {
  const Teams& teams = problem.teams;
  const int team = teams.Team(), member = teams.Member();
  const DecodeRowKeys row(args, args.sequences[team]);
  const Slice slice = SliceOfMember(row.begin, row.end, teams);
  const StoredScores bits = {row, problem.ScoresOf(team), static_cast<uint32_t>(slice.begin)};
  const int64_t count = SelectByDigits(row, bits, slice, problem, 0, problem.states[team],
                                       problem.counts + team * teams.size, words, memory,
                                       problem.selected.candidates + team * problem.top_k);
  if (member == teams.size - 1) PutCount(problem, team, count);
}

// Three blocks fit a multiprocessor, to leave room for what comes after it.
__global__ void __launch_bounds__(kThreads, 3)
    SelectDecodedKernel(const __grid_constant__ DecodeSelectArgs args,
                        const __grid_constant__ Problem problem) {
  extern __shared__ __align__(16) float dynamic[];
  __shared__ DecodedMemory memory;
  const int team = problem.teams.Team(), member = problem.teams.Member();
  DecodeState& state = problem.states[team].decode;
  WaitForPredecessors();
  LetSuccessorsStart();  // they may read all that was there before the scores
  // For the scores of the next row.
  if (member == 0) {
    if (threadIdx.x < kDecodeSamples) state.samples[threadIdx.x] = 0;
    if (threadIdx.x == 0) {
      state.guess = 0;
      ++state.rows;
    }
  }
  bool is_short = problem.HasDecodeLists();
  if (is_short && member % kShare == 0) {
    const DecodeRowKeys row(args, args.sequences[team]);
    const int count = SelectFromLists(row, problem, &state, reinterpret_cast<uint32_t*>(dynamic),
                                      memory, problem.selected.candidates + team * problem.top_k);
    is_short = count >= 0;
    if (is_short && member + kShare >= problem.teams.size) PutCount(problem, team, count);
  } else if (is_short) {
    is_short = AwaitWay(&state, __ldcg(&state.headers[member].row), memory) == Way::kShort;
  }
  if (!is_short) {
    GoLongWay(args, problem, reinterpret_cast<unsigned long long*>(dynamic), memory.block);
  }
}

}  // namespace longspan::cuda::selection

#endif  // LONGSPAN_KERNELS_CUDA_SELECT_DECODED_CUH_
