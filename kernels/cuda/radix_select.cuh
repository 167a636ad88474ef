#ifndef LONGSPAN_KERNELS_CUDA_RADIX_SELECT_CUH_
#define LONGSPAN_KERNELS_CUDA_RADIX_SELECT_CUH_

#include <cuda_runtime.h>

#include <cstdint>

#include "kernels/cuda/async_copy.cuh"
#include "kernels/cuda/grid_barrier.cuh"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/select.h"
#include "kernels/cuda/select_entries.cuh"
#include "kernels/cuda/select_problem.cuh"

// The selection among a team's entries.
//
// The short way: blocks post maxima of samples of their entries. From those posted so far each
// takes a score that probably somewhat more than top_k entries reach, and posts its entries that
// do. Every block reads all of them, finds the threshold there for itself, and writes what it has
// taken of its own. If the lists hold fewer than top_k entries or too many, which all blocks see
// alike, the team goes
//
// the long way: digit by digit a histogram says in which bin the threshold lies, until so few
// entries share its digits that they are listed, and every block of the team finds the threshold in
// the list for itself. Between these steps the team meets at a barrier: twice, or up to four times
// if entries are much alike.
namespace longspan::cuda::selection {

__constant__ constexpr int kShifts[kDigits] = {21, 10, 0};
// So few words are ordered by comparing each with all.
constexpr uint32_t kRanked = 128;
// The header of a block's list says in the low bits how many pieces it has.
constexpr int kHeaderBits = 12;
constexpr uint32_t kTooMany = (1u << kHeaderBits) - 1;
// What stands for an entry in a list's first word. Nor is any zero's: 2^32 - 1 is no entry.
constexpr uint32_t kLowestMark = 0;

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
  alignas(16) uint32_t samples[kSamples];
  uint32_t sampled_lowest;   // from which on entries are listed
  uint32_t lowest, highest;  // of all blocks: from which on the lists are complete, what they hold
  int starts[kMaxTeam];      // of the members' lists, in pieces
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

// The long way, for one row. Returns how many entries are taken up to the block's last.
template <typename Row>
__device__ int64_t SelectByDigits(const Row& row, const uint32_t* bits, Slice slice,
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
  // Nobody needs these any more, and the next row uses the other half.
  uint32_t* const used = &state.histograms[half][0][0];
  for (int i = member * kThreads + threadIdx.x; i < digit * kBins; i += members * kThreads) {
    used[i] = 0;
  }
  if (member == 0 && threadIdx.x == 0) state.listed[half] = 0;
  const Taken taken = Decide(threshold, lists, state.list, counts, slice, member, words, memory);
  return taken.offset + int64_t{Write(row, bits, slice, taken, memory, out)};
}

// ---- The short way ----

// Of one row.
struct ShortRow {
  unsigned long long number;  // of the row
  int member, members;
  unsigned long long* headers;
  unsigned long long* lists;  // [members, list_words]
  int list_words;
  int listed;  // at most, of all blocks
};

// Bits from which on to list entries, so that all blocks together list about as many as wanted. Of
// `count` maxima over `size` entries each, where `reached` entries of all reach some bits, about
// count * (1 - exp(-size * reached / entries)) do. Not all maxima are waited for, and a block may
// come to other bits than the others.
__device__ uint32_t EstimateLowest(const Sampling& sampling, BlockMemory& memory) {
  static_assert(kThreads == 4 * kSamples);
  const int thread = threadIdx.x, posted = sampling.posted;
  const auto number = static_cast<uint32_t>(sampling.row_number);
  unsigned long long sample = 0;
  int present = 0;
  bool is_present = false;
  do {
    if (thread < posted && !is_present) sample = LoadRelaxed(sampling.samples + thread);
    is_present = thread < posted && static_cast<uint32_t>(sample >> 32) == number;
    present = __syncthreads_count(is_present);
  } while (present < posted - posted / 8);
  if (thread < kSamples) memory.samples[thread] = is_present ? static_cast<uint32_t>(sample) : 0;
  __syncthreads();
  // Of the maxima that at least `rank` are not below, the greatest.
  const float share =
      1.0f - __expf(-__fdividef(static_cast<float>(sampling.size), sampling.entries_per_wanted));
  const int rank = min(static_cast<int>(static_cast<float>(present) * share) + 1, present);
  const uint32_t value = memory.samples[thread / 4];
  int not_below = 0;
#pragma unroll
  for (int i = 0; i < kSamples / 16; ++i) {
    const uint4 others = reinterpret_cast<const uint4*>(memory.samples)[i * 4 + thread % 4];
    not_below += static_cast<int>(others.x >= value) + static_cast<int>(others.y >= value) +
                 static_cast<int>(others.z >= value) + static_cast<int>(others.w >= value);
  }
  not_below += __shfl_xor_sync(0xffffffffu, not_below, 1);
  not_below += __shfl_xor_sync(0xffffffffu, not_below, 2);
  if (thread % 4 == 0 && not_below >= rank) atomicMax(&memory.sampled_lowest, value);
  __syncthreads();
  return memory.sampled_lowest;
}

// Posts the block's entries from `lowest` on, in order, after a word that says `lowest`. Returns
// how many they are. `marks`: a bit for each entry.
__device__ int PostList(const uint32_t* bits, Slice slice, uint32_t lowest, const ShortRow& row,
                        uint32_t* marks, BlockMemory& memory) {
  const int size = slice.size(), lane = threadIdx.x % 32;
#pragma unroll 4
  for (int begin = threadIdx.x - lane; begin < size; begin += kThreads) {
    const uint32_t value = begin + lane < size ? bits[begin + lane] : kNotAScore;
    const uint32_t mark = __ballot_sync(0xffffffffu, value >= lowest);
    if (lane == 0) marks[begin / 32] = mark;
  }
  __syncthreads();
  const int num_marks = (size + 31) / 32;
  const int per_thread = (num_marks + kThreads - 1) / kThreads;
  const int begin = min(static_cast<int>(threadIdx.x) * per_thread, num_marks);
  const int end = min(begin + per_thread, num_marks);
  int own = 0;
  for (int i = begin; i < end; ++i) own += __popc(marks[i]);
  const Sums<int> sums = SumOverBlock(own, memory);
  const int pieces = sums.total / kPieceWords + 1;  // with the first word
  const bool fits = pieces * kPieceWords <= row.list_words;
  if (fits) {
    unsigned long long* const list = row.lists + int64_t{row.member} * row.list_words;
    unsigned long long* out = list + 1 + sums.before;
    for (int i = begin; i < end; ++i) {
      for (uint32_t mark = marks[i]; mark != 0; mark &= mark - 1) {
        const int at = i * 32 + __ffs(static_cast<int>(mark)) - 1;
        *out++ = ListWord(bits[at], slice.begin + at);
      }
    }
    if (threadIdx.x == 0) *list = static_cast<unsigned long long>(lowest) << 32 | kLowestMark;
    const int last = sums.total + 1 + static_cast<int>(threadIdx.x);
    if (last < pieces * kPieceWords) list[last] = 0;
  }
  __syncthreads();
  if (threadIdx.x == 0) {
    StoreRelease(row.headers + row.member,
                 row.number << kHeaderBits | (fits ? static_cast<uint32_t>(pieces) : kTooMany));
  }
  return sums.total;
}

// Reads all blocks' lists, one after the other, with zeros between; returns how many words those
// are, or 0 if they are too many. memory.lowest and memory.highest must be 1 and 0 before.
__device__ int ReadLists(const ShortRow& row, unsigned long long* words, BlockMemory& memory) {
  const int thread = threadIdx.x;
  uint32_t own = 0;
  if (thread < row.members) {
    unsigned long long header;
    do {
      header = LoadAcquire(row.headers + thread);
    } while (header >> kHeaderBits != row.number);
    own = static_cast<uint32_t>(header) & kTooMany;
  }
  const Sums<uint32_t> sums = SumOverBlock(own, memory);
  static_assert(kTooMany > kListed / kPieceWords && kPieceWords == 4);
  if (sums.total > row.listed / kPieceWords) return 0;
  const int pieces = static_cast<int>(sums.total);
  if (thread < kMaxTeam) {
    memory.starts[thread] = thread < row.members ? static_cast<int>(sums.before) : kListed;
  }
  __syncthreads();
  // Without a detour by registers, which are few.
#pragma unroll 1
  for (int piece = thread; piece < pieces; piece += kThreads) {
    int member = 0;  // whose list has it: each has a piece at least
#pragma unroll
    for (int step = kMaxTeam / 2; step >= 1; step /= 2) {
      member += memory.starts[member + step] <= piece ? step : 0;
    }
    const unsigned long long* const from = row.lists + int64_t{member} * row.list_words +
                                           (piece - memory.starts[member]) * kPieceWords;
    CopyAsync(words + piece * kPieceWords, from, true);
    CopyAsync(words + piece * kPieceWords + 2, from + 2, true);
  }
  CommitCopies();
  AwaitCopies<0>();
  uint32_t lowest = 0, highest = 0;
  for (int piece = thread; piece < pieces; piece += kThreads) {
    unsigned long long* const own_words = words + piece * kPieceWords;
    if (static_cast<uint32_t>(own_words[0]) == kLowestMark) {
      lowest = max(lowest, static_cast<uint32_t>(own_words[0] >> 32));
      own_words[0] = 0;
    }
#pragma unroll
    for (int i = 0; i < kPieceWords; ++i) {
      highest = max(highest, static_cast<uint32_t>(own_words[i] >> 32));
    }
  }
  lowest = __reduce_max_sync(0xffffffffu, lowest);
  highest = __reduce_max_sync(0xffffffffu, highest);
  if (thread % 32 == 0) {
    atomicMax(&memory.lowest, lowest);
    atomicMax(&memory.highest, highest);
  }
  __syncthreads();
  return pieces * kPieceWords;
}

// Before the short way, and a barrier of the block.
__device__ void PrepareShortWay(BlockMemory& memory) {
  if (threadIdx.x < kSamples) memory.samples[threadIdx.x] = 0;
  if (threadIdx.x == 0) {
    memory.sampled_lowest = memory.lowest = 1;
    memory.highest = 0;
  }
}

// Selects a row's entries. Returns how many are taken up to the block's last; -1 if the lists were
// of no use, which all blocks find alike. `own_lowest`: from which bits on to list the block's
// entries. `words`: memory for row.listed of them.
template <typename Row>
__device__ int64_t SelectFromLists(const Row& source_row, const uint32_t* bits, Slice slice,
                                   int64_t top_k, uint32_t own_lowest, const ShortRow& row,
                                   unsigned long long* words, BlockMemory& memory, Candidate* out) {
  const int own =
      PostList(bits, slice, own_lowest, row, reinterpret_cast<uint32_t*>(words), memory);
  const int count = ReadLists(row, words, memory);
  if (count == 0) return -1;
  const unsigned long long lowest = static_cast<unsigned long long>(memory.lowest) << 32;
  const unsigned long long highest =
      static_cast<unsigned long long>(memory.highest) << 32 | 0xffffffffu;
  unsigned long long word =
      FirstWord(words, count, lowest, max(lowest, highest), static_cast<uint32_t>(top_k), memory);
  if (word == 0) {
    if (memory.lowest > 1) return -1;
    word = 1;  // the lists hold all scores, no more than top_k: all are taken
  }
  const int begin = memory.starts[row.member] * kPieceWords + 1;
  uint32_t before = 0;
#pragma unroll 4
  for (int i = threadIdx.x; i < begin; i += kThreads) before += words[i] >= word;
  const int per_thread = (own + kThreads - 1) / kThreads;
  const int from = begin + min(static_cast<int>(threadIdx.x) * per_thread, own);
  const int to = min(from + per_thread, begin + own);
  uint32_t taken = 0;
  for (int i = from; i < to; ++i) taken += words[i] >= word;
  const auto sums = SumOverBlock(Pair(before, taken), memory);
  Candidate* next = out + static_cast<uint32_t>(sums.total) + (sums.before >> 32);
  for (int i = from; i < to; ++i) {
    if (words[i] < word) continue;
    const int64_t entry = 0xffffffffu - static_cast<uint32_t>(words[i]);
    *next++ = MakeCandidate(static_cast<uint32_t>(words[i] >> 32), source_row.Position(entry));
  }
  return static_cast<int64_t>(static_cast<uint32_t>(sums.total)) +
         static_cast<int64_t>(sums.total >> 32);
}

// Starts to copy a block's bits to where its list will be, behind its marks, if they fit.
__device__ const uint32_t* CopyBits(const uint32_t* bits, int size, const Problem& problem,
                                    uint32_t* scratch) {
  const int num_marks = (size + 31) / 32;
  uint32_t* const to = scratch + (num_marks + 3) / 4 * 4;
  const int pieces = (size + 3) / 4;
  if (to + pieces * 4 > scratch + problem.scratch_floats) return bits;
  for (int i = threadIdx.x; i < pieces; i += kThreads) CopyAsync(to + i * 4, bits + i * 4, true);
  CommitCopies();
  return to;
}

// Blocks of a selection of stored scores leave room on a multiprocessor for what comes after it.
template <typename Source>
constexpr int kMinBlocks = Source::kAreStored ? 3 : 1;

template <typename Source>
__global__ void __launch_bounds__(kThreads, kMinBlocks<Source>)
    SelectKernel(const __grid_constant__ Source source, const __grid_constant__ Problem problem) {
  extern __shared__ __align__(16) float dynamic[];
  __shared__ BlockMemory memory;
  if constexpr (!Source::kAreStored) LetSuccessorsStart();
  const Teams& teams = problem.teams;
  const int member = teams.Member();
  if (teams.Team() >= teams.count) return;
  TeamState& state = problem.states[teams.Team()];
  unsigned long long* const counts = problem.counts + teams.Team() * teams.size;
  auto* const words = reinterpret_cast<unsigned long long*>(dynamic);
  unsigned long long row_number = 0;
  int half = 0;
  for (int r = teams.Team(); r < problem.rows; r += teams.count, half ^= 1) {
    const auto row = source.At(r);
    const Slice slice = SliceOfMember(row.begin, row.end, teams);
    if (slice.size() > problem.slice) __trap();  // a row has outgrown what the host said
    const int64_t entries = row.end - row.begin;
    const bool is_short = problem.IsShort(entries);
    Sampling sampling = SamplingOf(problem, entries, state.samples[half]);
    PrepareShortWay(memory);
    if constexpr (Source::kAreStored) {
      WaitForPredecessors();
      LetSuccessorsStart();  // they may read all that was there before the scores
    }
    // The first block writes it when all have read it, as they tell in the headers of their lists.
    if (r == teams.Team()) row_number = __ldcg(&state.row_number);
    uint32_t* const bits = problem.bits != nullptr
                               ? problem.BitsOf(teams.Team(), member)
                               : reinterpret_cast<uint32_t*>(dynamic + problem.scratch_floats);
    const uint32_t* listed_bits = bits;
    if constexpr (!Source::kAreStored) {
      row.Fill(slice, bits);
    } else if (is_short) {
      listed_bits = CopyBits(bits, slice.size(), problem, reinterpret_cast<uint32_t*>(dynamic));
    }
    Candidate* const out = problem.selected.candidates + r * problem.top_k;
    int64_t count = -1;
    ++row_number;
    if (is_short) {
      uint32_t lowest = 1;
      if (!problem.ListsAll(entries)) {
        if constexpr (!Source::kAreStored) {
          sampling.row_number = row_number;
          PostSamples<kThreads>(bits, slice.size(), sampling, memory.samples);
        }
        lowest = EstimateLowest(sampling, memory);
      }
      if constexpr (Source::kAreStored) {
        AwaitCopies<0>();
        __syncthreads();
      }
      const int64_t first_list = (half * teams.count + teams.Team()) * int64_t{teams.size};
      const ShortRow short_row = {row_number,
                                  member,
                                  teams.size,
                                  state.headers[half],
                                  problem.lists + first_list * problem.list_words,
                                  problem.list_words,
                                  problem.listed};
      count = SelectFromLists(row, listed_bits, slice, problem.top_k, lowest, short_row, words,
                              memory, out);
    }
    if (count < 0) {
      count = SelectByDigits(row, bits, slice, problem, half, state, counts, words, memory, out);
    }
    if (member == teams.size - 1) {
      if (threadIdx.x == 0) problem.selected.counts[r] = static_cast<int32_t>(count);
      // No candidates: what ranks gather has no counts.
      for (int64_t i = count + threadIdx.x; i < problem.top_k; i += kThreads) out[i] = 0;
    }
    __syncthreads();
  }
  if (member == 0 && threadIdx.x == 0) state.row_number = row_number;
}

}  // namespace longspan::cuda::selection

#endif  // LONGSPAN_KERNELS_CUDA_RADIX_SELECT_CUH_
