#ifndef LONGSPAN_KERNELS_CUDA_RADIX_SELECT_CUH_
#define LONGSPAN_KERNELS_CUDA_RADIX_SELECT_CUH_

#include <cuda_runtime.h>

#include <cstdint>

#include "kernels/cuda/grid_barrier.cuh"
#include "kernels/cuda/select.h"
#include "kernels/cuda/select_entries.cuh"

// The selection among a team's entries. Digit by digit a histogram says in which bin the threshold
// lies, until so few entries share its digits that they are listed, and every block of the team
// finds the threshold in the list for itself. Between these steps the team meets at a barrier:
// twice, or up to four times if entries are much alike.
namespace longspan::cuda::selection {

// A score's bits are looked at in three digits, the highest first.
constexpr int kDigits = 3;
constexpr int kBins = 2048;
__constant__ constexpr int kShifts[kDigits] = {21, 10, 0};
// As soon as no more than so many share the threshold's digits, they are listed and ordered.
constexpr int kListed = 8192;
// So few are ordered by comparing each with all.
constexpr uint32_t kRanked = 128;

// What the blocks of a team share. A row uses the half that the row before does not: that is
// cleared meanwhile.
struct alignas(128) TeamState {
  uint32_t barrier;
  uint32_t listed[2];  // entries in the list so far
  uint32_t histograms[2][kDigits][kBins];
  unsigned long long list[kListed];
};

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

// Sums over the threads of a block: before this one, and of all.
template <typename T>
struct Sums {
  T before, total;
};

template <typename T>
__device__ T WarpSumThrough(T value) {
  const int lane = threadIdx.x % 32;
#pragma unroll
  for (int width = 1; width < 32; width *= 2) {
    const T other = __shfl_up_sync(0xffffffffu, value, width);
    if (lane >= width) value += other;
  }
  return value;
}

template <typename T>
__device__ Sums<T> SumOverBlock(T value, BlockMemory& memory) {
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const T through = WarpSumThrough(value);
  if (lane == 31) memory.warp_sums[warp] = through;
  __syncthreads();
  const T warps = WarpSumThrough(lane < kWarps ? static_cast<T>(memory.warp_sums[lane]) : T{0});
  const T before = __shfl_sync(0xffffffffu, warps, (warp + 31) % 32);
  const T total = __shfl_sync(0xffffffffu, warps, 31);
  __syncthreads();
  return {(warp == 0 ? T{0} : before) + through - value, total};
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
__device__ void CountDigit(const uint32_t* bits, int size, const Threshold& threshold, int digit,
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

// An entry in the order of a list: score bits, then entries ascending.
__device__ unsigned long long ListWord(uint32_t bits, int64_t entry) {
  return static_cast<unsigned long long>(bits) << 32 | (0xffffffffu - static_cast<uint32_t>(entry));
}

// Tells the team how many of the block's entries are below the threshold in order, in the low half,
// and how many it holds; lists the latter if they are few.
__device__ void CountAndList(const uint32_t* bits, Slice slice, const Threshold& threshold,
                             bool lists, BlockMemory& memory, uint32_t* listed,
                             unsigned long long* list, unsigned long long* block_count) {
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

// The word from which on words are taken: of those listed, which the threshold holds and which are
// all different, its `left` first. Digit by digit, until few are left.
__device__ unsigned long long FirstWord(const unsigned long long* words, int count,
                                        const Threshold& threshold, BlockMemory& memory) {
  auto known = static_cast<unsigned long long>(threshold.lowest) << 32;
  int shift = 32 + __ffs(static_cast<int>(threshold.width)) - 1;  // from it on, a word is `known`
  uint32_t left = threshold.left, inside = count;
  while (inside > kRanked && inside != left) {
    const int next = max(0, shift - 11);
    for (int i = threadIdx.x; i < kBins; i += kThreads) memory.histogram[i] = 0;
    __syncthreads();
    for (int i = threadIdx.x; i < count; i += kThreads) {
      if (words[i] >> shift != known >> shift) continue;
      const auto digit = static_cast<uint32_t>(words[i] >> next) & ((1u << (shift - next)) - 1);
      atomicAdd(memory.histogram + IndexOfBin(digit), 1u);
    }
    __syncthreads();
    const Bin bin = FindOwnBin(left, memory);
    known |= static_cast<unsigned long long>(bin.index) << next;
    left -= bin.before;
    inside = bin.count;
    shift = next;
  }
  if (inside == left) return known;
  if (threadIdx.x == 0) memory.num_ranked = 0;
  __syncthreads();
  for (int i = threadIdx.x; i < count; i += kThreads) {
    if (words[i] >> shift != known >> shift) continue;
    memory.ranked[atomicAdd(&memory.num_ranked, 1)] = words[i];
  }
  __syncthreads();
  return WordOfRank(memory.ranked, static_cast<int>(inside), left, memory);
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

struct Problem {
  TeamState* states;           // [teams]
  unsigned long long* counts;  // [blocks]
  uint32_t* shared_bits;       // [blocks, slice]; null: they fit a block's own memory
  Teams teams;
  int rows;
  int64_t top_k;
  Selected selected;
  int64_t slice;           // entries of a block, at most
  int64_t scratch_floats;  // of a source, or a list
};

// Which entries are taken: those whose word is at least `word`, never 0's, and the `ties` first of
// those whose bits are `tie_bits`.
struct Taken {
  unsigned long long word;
  uint32_t tie_bits;
  uint32_t ties;
  uint32_t offset;  // in the output, of the block's first
};

// Writes the block's taken entries in order; returns how many they are.
template <typename Row>
__device__ uint32_t Write(const Row& row, const uint32_t* bits, Slice slice, const Taken& taken,
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
  const unsigned long long word = FirstWord(words, count, threshold, memory);
  uint32_t own = 0;  // words taken by the members before this one
  for (int i = threadIdx.x; i < count; i += kThreads) {
    const int64_t entry = 0xffffffffu - static_cast<uint32_t>(words[i]);
    own += words[i] >= word && entry < slice.begin;
  }
  return {word, kNoTie, 0, certain + SumOverBlock(own, memory).total};
}

template <typename Source>
__global__ void __launch_bounds__(kThreads)
    SelectKernel(const Source source, const Problem problem) {
  extern __shared__ __align__(16) float dynamic[];
  __shared__ BlockMemory memory;
  const Teams& teams = problem.teams;
  const int member = teams.Member();
  if (teams.Team() >= teams.count) return;
  TeamState& state = problem.states[teams.Team()];
  unsigned long long* const counts = problem.counts + teams.Team() * teams.size;
  uint32_t* const bits = problem.shared_bits != nullptr
                             ? problem.shared_bits + blockIdx.x * problem.slice
                             : reinterpret_cast<uint32_t*>(dynamic + problem.scratch_floats);
  int half = 0;
  for (int r = teams.Team(); r < problem.rows; r += teams.count, half ^= 1) {
    const auto row = source.At(r);
    const Slice slice = SliceOfMember(row.begin, row.end, teams);
    if (slice.size() > problem.slice) __trap();  // a row has outgrown what the host said
    row.Fill(slice, dynamic, bits);

    Threshold threshold;
    threshold.left = static_cast<uint32_t>(problem.top_k);
    threshold.inside = static_cast<uint32_t>(row.end - row.begin);
    int digit = 0;
    do {
      uint32_t* const histogram = state.histograms[half][digit];
      CountDigit(bits, slice.size(), threshold, digit, memory, histogram);
      TeamBarrier(&state.barrier, teams.size, member == 0);
      const Bin bin = FindTeamBin(histogram, threshold.left, memory);
      if (bin.index < 0) {
        threshold = {1, 0, 0, 0};  // there are no more than that: all are taken
      } else {
        const uint32_t lowest = digit == 0 ? 0 : threshold.lowest;
        threshold = {lowest + (static_cast<uint32_t>(bin.index) << kShifts[digit]),
                     1u << kShifts[digit], threshold.left - bin.before, bin.count};
      }
      ++digit;
    } while (threshold.inside > kListed && threshold.width > 1);

    const bool lists = threshold.inside <= kListed && threshold.left > 0;
    CountAndList(bits, slice, threshold, lists, memory, &state.listed[half], state.list,
                 counts + member);
    TeamBarrier(&state.barrier, teams.size, member == 0);
    // Nobody needs these any more, and the next row uses the other half.
    uint32_t* const used = &state.histograms[half][0][0];
    for (int i = member * kThreads + threadIdx.x; i < digit * kBins; i += teams.size * kThreads) {
      used[i] = 0;
    }
    if (member == 0 && threadIdx.x == 0) state.listed[half] = 0;
    const Taken taken = Decide(threshold, lists, state.list, counts, slice, member,
                               reinterpret_cast<unsigned long long*>(dynamic), memory);
    const uint32_t written =
        Write(row, bits, slice, taken, memory, problem.selected.candidates + r * problem.top_k);
    if (member == teams.size - 1) {
      const int64_t count = taken.offset + written;
      if (threadIdx.x == 0) problem.selected.counts[r] = static_cast<int32_t>(count);
      // No candidates: what ranks gather has no counts.
      for (int64_t i = count + threadIdx.x; i < problem.top_k; i += kThreads) {
        problem.selected.candidates[r * problem.top_k + i] = 0;
      }
    }
    __syncthreads();
  }
}

}  // namespace longspan::cuda::selection

#endif  // LONGSPAN_KERNELS_CUDA_RADIX_SELECT_CUH_
