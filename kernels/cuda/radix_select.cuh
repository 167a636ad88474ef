#ifndef LONGSPAN_KERNELS_CUDA_RADIX_SELECT_CUH_
#define LONGSPAN_KERNELS_CUDA_RADIX_SELECT_CUH_

#include <cuda_runtime.h>

#include <cstdint>

#include "kernels/cuda/grid_barrier.cuh"
#include "kernels/cuda/select.h"
#include "kernels/cuda/select_entries.cuh"
#include "kernels/cuda/select_lists.cuh"
#include "kernels/cuda/select_problem.cuh"

// The selection among a team's entries by digits, the long way, which never fails: digit by digit a
// histogram says in which bin the threshold lies, until so few entries share its digits that they
// are listed, and every block of the team finds the threshold in the list for itself. Between these
// steps the team meets at a barrier: twice, or up to four times if entries are much alike.
namespace longspan::cuda::selection {

__constant__ constexpr int kShifts[kDigits] = {21, 10, 0};
// So few words are ordered by comparing each with all.
constexpr uint32_t kRanked = 128;
// A thread looks at kThreadBins bins, thread 0 at the highest.
constexpr int kThreadBins = kBins / kThreads;

// Where a block counts a bin.
__device__ int IndexOfBin(uint32_t bin) {
  return static_cast<int>(bin % kThreadBins * kThreads + (kThreads - 1 - bin / kThreadBins));
}

// How far a row's threshold is known: of the entries whose bits are among the `width` from `lowest`
// on, the `left` first are to be taken, and there are `inside` of them. Those above all are.
// Nothing holds what is not a score, for `lowest` is never 0.
struct Threshold {
  uint32_t lowest = 1;
  uint32_t width = 0xffffffff;
  uint32_t left = 0;
  uint32_t inside = 0;

  __device__ bool Holds(uint32_t bits) const { return bits - lowest < width; }
  __device__ bool IsBelow(uint32_t bits) const { return bits >= lowest + width; }
};

// The bin in which the `left`-th first entry lies; `before` entries lie in higher ones. No bin if
// there are not so many entries.
struct Bin {
  int index = -1;
  uint32_t before = 0, count = 0;
};

// A block's own memory.
struct BlockMemory {
  uint32_t histogram[kBins];
  unsigned long long warp_sums[kWarps];
  unsigned long long word;
  unsigned long long ranked[kRanked];
  int num_ranked;
  Bin bin;
};

template <typename T>
__device__ Sums<T> SumOverBlock(T value, BlockMemory& memory) {
  return SumOverWarps<kWarps>(value, memory.warp_sums);
}

// counts: of the thread's bins, ascending.
__device__ Bin FindBin(const uint32_t (&counts)[kThreadBins], uint32_t left, BlockMemory& memory) {
  uint32_t sum = 0;
#pragma unroll
  for (const uint32_t count : counts) sum += count;
  const Sums<uint32_t> sums = SumOverBlock(sum, memory);
  if (sums.total < left) return Bin();
  uint32_t above = sums.before;
  if (above < left && above + sum >= left) {
    int bin = kThreadBins - 1;
#pragma unroll
    for (int i = kThreadBins - 1; i > 0; --i) {
      if (bin == i && above + counts[i] < left) {
        above += counts[i];
        bin = i - 1;
      }
    }
    uint32_t count = 0;
#pragma unroll
    for (int i = 0; i < kThreadBins; ++i) count = i == bin ? counts[i] : count;
    memory.bin = {static_cast<int>(kThreads - 1 - threadIdx.x) * kThreadBins + bin, above, count};
  }
  __syncthreads();
  return memory.bin;
}

// Of the block's own histogram.
__device__ Bin FindOwnBin(uint32_t left, BlockMemory& memory) {
  uint32_t counts[kThreadBins];
#pragma unroll
  for (int i = 0; i < kThreadBins; ++i) counts[i] = memory.histogram[i * kThreads + threadIdx.x];
  return FindBin(counts, left, memory);
}

// Of the team's, which other blocks write: past the multiprocessor's own cache.
__device__ Bin FindTeamBin(const uint32_t* histogram, uint32_t left, BlockMemory& memory) {
  uint32_t counts[kThreadBins];
#pragma unroll
  for (int i = 0; i < kThreadBins; ++i) {
    counts[i] = __ldcg(histogram + i * kThreads + threadIdx.x);
  }
  return FindBin(counts, left, memory);
}

// Adds the block's entries that the threshold holds to the histogram of the next digit.
template <typename Bits>
__device__ void CountDigit(const Bits& bits, int size, const Threshold& threshold, int digit,
                           BlockMemory& memory, uint32_t* histogram) {
  for (int i = threadIdx.x; i < kBins; i += kThreads) memory.histogram[i] = 0;
  __syncthreads();
  const int shift = kShifts[digit];
  const uint32_t bins = digit == 0 ? kBins : threshold.width >> shift;
#pragma unroll 4
  for (int i = threadIdx.x; i < size; i += kThreads) {
    const uint32_t value = bits[i];
    if (threshold.Holds(value)) {
      atomicAdd(memory.histogram + IndexOfBin(value >> shift & (bins - 1)), 1u);
    }
  }
  __syncthreads();
  for (int i = threadIdx.x; i < kBins; i += kThreads) {
    if (memory.histogram[i] != 0) atomicAdd(histogram + i, memory.histogram[i]);
  }
}

// Two counts in one sum.
__device__ unsigned long long Pair(uint32_t low, uint32_t high) {
  return low | static_cast<unsigned long long>(high) << 32;
}

// Consecutive entries of a thread, counted from the slice's begin. An odd number of them, so that
// threads of a warp that walk through theirs meet in no bank of memory.
struct Part {
  int begin, end;
};

__device__ Part PartOfThread(Slice slice) {
  const int size = (slice.size() + kThreads - 1) / kThreads | 1;
  const int begin = min(static_cast<int>(threadIdx.x) * size, slice.size());
  return {begin, min(begin + size, slice.size())};
}

// Tells the team how many of the block's entries are below the threshold in order, in the low half,
// and how many it holds; lists the latter if they are few.
template <typename Bits>
__device__ void CountAndList(const Bits& bits, Slice slice, const Threshold& threshold, bool lists,
                             BlockMemory& memory, uint32_t* listed, unsigned long long* list,
                             unsigned long long* block_count) {
  const Part part = PartOfThread(slice);
  uint32_t below = 0, held = 0;
#pragma unroll 8
  for (int i = part.begin; i < part.end; ++i) {
    below += threshold.IsBelow(bits[i]);
    held += threshold.Holds(bits[i]);
  }
  const auto sums = SumOverBlock(Pair(below, held), memory);
  const auto total_held = static_cast<uint32_t>(sums.total >> 32);
  if (threadIdx.x == 0) {
    *block_count = sums.total;
    if (lists && total_held > 0) memory.word = atomicAdd(listed, total_held);
  }
  if (!lists || total_held == 0) return;
  __syncthreads();
  unsigned long long* out = list + memory.word + static_cast<uint32_t>(sums.before >> 32);
#pragma unroll 8
  for (int i = part.begin; i < part.end; ++i) {
    const uint32_t value = bits[i];
    if (threshold.Holds(value)) *out++ = ListWord(value, slice.begin + i);
  }
}

// Of `count` different words, at most kRanked, that which `left` - 1 others are greater than.
__device__ unsigned long long WordOfRank(const unsigned long long* words, int count, uint32_t left,
                                         BlockMemory& memory) {
  if (threadIdx.x < count) {
    uint32_t greater = 0;
    for (int i = 0; i < count; ++i) greater += words[i] > words[threadIdx.x];
    if (greater == left - 1) memory.word = words[threadIdx.x];
  }
  __syncthreads();
  return memory.word;
}

// The word from which on words are taken: the `left` first of those from `lowest` to `highest`,
// which are all different. 0 if there are fewer.
__device__ unsigned long long FirstWord(const unsigned long long* words, int count,
                                        unsigned long long lowest, unsigned long long highest,
                                        uint32_t left, BlockMemory& memory) {
  Bin bin;
  do {
    const int shift = max(0, 53 - __clzll(static_cast<long long>(highest - lowest)));
    for (int i = threadIdx.x; i < kBins; i += kThreads) memory.histogram[i] = 0;
    __syncthreads();
#pragma unroll 4
    for (int i = threadIdx.x; i < count; i += kThreads) {
      const unsigned long long above = words[i] - lowest;
      if (above > highest - lowest) continue;
      atomicAdd(memory.histogram + IndexOfBin(static_cast<uint32_t>(above >> shift)), 1u);
    }
    __syncthreads();
    bin = FindOwnBin(left, memory);
    if (bin.index < 0) return 0;
    lowest += static_cast<unsigned long long>(bin.index) << shift;
    highest = lowest + ((1ull << shift) - 1);
    left -= bin.before;
    if (bin.count == left) return lowest;
  } while (bin.count > kRanked);
  if (threadIdx.x == 0) memory.num_ranked = 0;
  __syncthreads();
#pragma unroll 4
  for (int i = threadIdx.x; i < count; i += kThreads) {
    if (words[i] - lowest > highest - lowest) continue;
    memory.ranked[atomicAdd(&memory.num_ranked, 1)] = words[i];
  }
  __syncthreads();
  return WordOfRank(memory.ranked, static_cast<int>(bin.count), left, memory);
}

// The sum over the team's members before this one of what they counted, for one warp.
__device__ unsigned long long MembersBefore(const unsigned long long* counts, int member) {
  unsigned long long before = 0;
  for (int m = threadIdx.x % 32; m < member; m += 32) before += __ldcg(counts + m);
#pragma unroll
  for (int width = 16; width >= 1; width /= 2) {
    before += __shfl_xor_sync(0xffffffffu, before, width);
  }
  return before;
}

// Which entries are taken: those whose word is at least `word`, never 0's, and the `ties` first of
// those whose bits are `tie_bits`.
struct Taken {
  unsigned long long word;
  uint32_t tie_bits;
  uint32_t ties;
  uint32_t offset;  // in the output, of the block's first
};

// Writes the block's taken entries in order; returns how many they are.
template <typename Row, typename Bits>
__device__ uint32_t Write(const Row& row, const Bits& bits, Slice slice, const Taken& taken,
                          BlockMemory& memory, Candidate* out) {
  const Part part = PartOfThread(slice);
  uint32_t certain = 0, ties = 0;
#pragma unroll 8
  for (int i = part.begin; i < part.end; ++i) {
    certain += ListWord(bits[i], slice.begin + i) >= taken.word;
    ties += bits[i] == taken.tie_bits;
  }
  const auto sums = SumOverBlock(Pair(certain, ties), memory);
  certain = static_cast<uint32_t>(sums.before);
  ties = static_cast<uint32_t>(sums.before >> 32);
#pragma unroll 8
  for (int i = part.begin; i < part.end; ++i) {
    const uint32_t value = bits[i];
    const bool is_tie = value == taken.tie_bits;
    const bool is_certain = ListWord(value, slice.begin + i) >= taken.word;
    if (is_certain || (is_tie && ties < taken.ties)) {
      out[taken.offset + certain + min(ties, taken.ties)] =
          MakeCandidate(value, row.Position(slice.begin + i));
    }
    certain += is_certain;
    ties += is_tie;
  }
  return static_cast<uint32_t>(sums.total) +
         min(static_cast<uint32_t>(sums.total >> 32), taken.ties);
}

// What of a row's list and counts the block must know to write.
__device__ Taken Decide(const Threshold& threshold, bool lists, const unsigned long long* list,
                        const unsigned long long* counts, Slice slice, int member,
                        unsigned long long* words, BlockMemory& memory) {
  const int count = lists ? static_cast<int>(threshold.inside) : 0;
  for (int i = threadIdx.x; i < count; i += kThreads) words[i] = __ldcg(list + i);
  if (threadIdx.x >= kThreads - 32) {
    const unsigned long long before = MembersBefore(counts, member);
    if (threadIdx.x % 32 == 0) memory.word = before;
  }
  __syncthreads();
  const unsigned long long before = memory.word;
  const auto certain = static_cast<uint32_t>(before);
  if (threshold.left == 0) return {1ull << 32, kNoTie, 0, certain};  // all are taken
  if (!lists) {
    const uint32_t ties = min(static_cast<uint32_t>(before >> 32), threshold.left);
    return {(static_cast<unsigned long long>(threshold.lowest) + 1) << 32, threshold.lowest,
            threshold.left - ties, certain + ties};
  }
  const uint32_t highest = threshold.lowest + (threshold.width - 1);
  const unsigned long long word = FirstWord(
      words, count, static_cast<unsigned long long>(threshold.lowest) << 32,
      static_cast<unsigned long long>(highest) << 32 | 0xffffffffu, threshold.left, memory);
  uint32_t own = 0;  // words taken by the members before this one
  for (int i = threadIdx.x; i < count; i += kThreads) {
    const int64_t entry = 0xffffffffu - static_cast<uint32_t>(words[i]);
    own += words[i] >= word && entry < slice.begin;
  }
  return {word, kNoTie, 0, certain + SumOverBlock(own, memory).total};
}

// The long way, for one row; bits[i]: of the slice's i-th entry. Returns how many entries are taken
// up to the block's last.
template <typename Row, typename Bits>
__device__ int64_t SelectByDigits(const Row& row, const Bits& bits, Slice slice,
                                  const Problem& problem, int half, TeamState& state,
                                  unsigned long long* counts, unsigned long long* words,
                                  BlockMemory& memory, Candidate* out) {
  const int member = problem.teams.Member(), members = problem.teams.size;
  Threshold threshold;
  threshold.left = static_cast<uint32_t>(problem.top_k);
  threshold.inside = static_cast<uint32_t>(row.end - row.begin);
  int digit = 0;
  do {
    uint32_t* const histogram = state.histograms[half][digit];
    CountDigit(bits, slice.size(), threshold, digit, memory, histogram);
    TeamBarrier(&state.barrier, members, member == 0);
    const Bin bin = FindTeamBin(histogram, threshold.left, memory);
    if (bin.index < 0) {
      threshold = {1, 0, 0, 0};  // there are no more than that: all are taken
    } else {
      const uint32_t lowest = digit == 0 ? 0 : threshold.lowest;
      threshold = {lowest + (static_cast<uint32_t>(bin.index) << kShifts[digit]),
                   1u << kShifts[digit], threshold.left - bin.before, bin.count};
    }
    ++digit;
  } while (threshold.inside > problem.listed && threshold.width > 1);

  const bool lists = threshold.inside <= problem.listed && threshold.left > 0;
  CountAndList(bits, slice, threshold, lists, memory, &state.listed[half], state.list,
               counts + member);
  TeamBarrier(&state.barrier, members, member == 0);
  // Nobody needs these any more; another row of the launch uses the other half.
  uint32_t* const used = &state.histograms[half][0][0];
  for (int i = member * kThreads + threadIdx.x; i < digit * kBins; i += members * kThreads) {
    used[i] = 0;
  }
  if (member == 0 && threadIdx.x == 0) state.listed[half] = 0;
  const Taken taken = Decide(threshold, lists, state.list, counts, slice, member, words, memory);
  return taken.offset + int64_t{Write(row, bits, slice, taken, memory, out)};
}

// How many are taken of row `r`, after which there are no candidates: what ranks gather has no
// counts.
__device__ void PutCount(const Problem& problem, int r, int64_t count) {
  Candidate* const out = problem.selected.candidates + r * problem.top_k;
  if (threadIdx.x == 0) problem.selected.counts[r] = static_cast<int32_t>(count);
  for (int64_t i = count + threadIdx.x; i < problem.top_k; i += kThreads) out[i] = 0;
}

}  // namespace longspan::cuda::selection

#endif  // LONGSPAN_KERNELS_CUDA_RADIX_SELECT_CUH_
