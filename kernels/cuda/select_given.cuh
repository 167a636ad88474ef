#ifndef LONGSPAN_KERNELS_CUDA_SELECT_GIVEN_CUH_
#define LONGSPAN_KERNELS_CUDA_SELECT_GIVEN_CUH_

#include <cuda_runtime.h>

#include <bit>
#include <cstdint>

#include "kernels/cuda/async_copy.cuh"
#include "kernels/cuda/grid_barrier.cuh"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/radix_select.cuh"
#include "kernels/cuda/select.h"
#include "kernels/cuda/select_entries.cuh"
#include "kernels/cuda/select_lists.cuh"
#include "kernels/cuda/select_problem.cuh"

// The selection of given scores, mostly the short way: blocks post maxima of samples of their
// entries. From those posted so far each takes a score that probably somewhat more than top_k
// entries reach, and posts its entries that do. Every block reads all of them, finds the threshold
// there for itself, and writes what it has taken of its own. If the lists hold fewer than top_k
// entries or too many, which all blocks see alike, the team goes the long way (radix_select.cuh).
namespace longspan::cuda::selection {

// A list is posted in pieces, behind a word that says from which bits on it is complete; its header
// says in the low bits how many pieces it has, and in the others of which row.
constexpr int kHeaderBits = 12;
constexpr uint32_t kTooMany = (1u << kHeaderBits) - 1;
// What stands for an entry in the first word. Nor is any zero's: 2^32 - 1 is no entry.
constexpr uint32_t kLowestMark = 0;

struct GivenScores {
  const float* scores;  // [rows, row_stride]
  int64_t row_stride;
  int64_t count;
};

struct GivenRow {
  const float* scores;
  int64_t begin, end;

  __device__ int64_t Position(int64_t entry) const { return entry; }
  // Writes the bits of the slice's entries.
  __device__ void Fill(Slice slice, uint32_t* bits) const {
    constexpr int kAtOnce = 16;  // loads under way
    const float* const from = scores + slice.begin;
    for (int i = threadIdx.x; i < slice.size(); i += kAtOnce * kThreads) {
      float values[kAtOnce];
#pragma unroll
      for (int j = 0; j < kAtOnce; ++j) {
        const int at = i + j * kThreads;
        values[j] = at < slice.size() ? __ldg(from + at) : 0.0f;
      }
#pragma unroll
      for (int j = 0; j < kAtOnce; ++j) {
        const int at = i + j * kThreads;
        if (at < slice.size()) bits[at] = BitsOf(values[j]);
      }
    }
    __syncthreads();
  }
};

// ---- Samples ----

struct SampleMemory {
  alignas(16) uint32_t samples[kSamples];
  uint32_t lowest;  // from which on entries are listed

  // Before a barrier of the block.
  __device__ void Clear() {
    if (threadIdx.x < kSamples) samples[threadIdx.x] = 0;
    if (threadIdx.x == 0) lowest = 1;
  }
};

// Of the entries of one row: blocks post `posted` maxima, each over `size` entries, of which a
// block's groups of threads find one each.
struct Sampling {
  unsigned long long row_number;
  unsigned long long* samples;  // of the team's state: row's number, bits
  int member;
  int shift;  // 1 << shift groups, as divisions would take longer than all the rest
  int posted;
  int group_entries;  // of a block's share of a group
  int size;
  float entries_per_wanted;  // entries that the lists should hold

  __device__ int groups() const { return 1 << shift; }
};

__device__ Sampling SamplingOf(const Problem& problem, int64_t entries,
                               unsigned long long row_number, unsigned long long* samples) {
  constexpr float kLoad = 1.5f;  // wanted entries in a group: the estimate varies least
  const int members = problem.teams.size;
  Sampling sampling = {row_number, samples, problem.teams.Member()};
  while ((2 << sampling.shift) * members <= kSamples) ++sampling.shift;
  sampling.posted = sampling.groups() * min(members, kSamples);
  sampling.group_entries = static_cast<int>((entries + members - 1) / members) >> sampling.shift;
  const float wanted = 1.9f * static_cast<float>(problem.top_k) + 64.0f;
  sampling.entries_per_wanted = __fdividef(static_cast<float>(entries), wanted);
  sampling.size = max(
      1, min(static_cast<int>(kLoad * sampling.entries_per_wanted) + 1, sampling.group_entries));
  return sampling;
}

// Posts the block's maxima.
__device__ void PostSamples(const uint32_t* bits, int slice_size, const Sampling& sampling,
                            SampleMemory& memory) {
  static_assert(std::has_single_bit(unsigned{kThreads}) && kThreads >= kSamples);
  const int thread = threadIdx.x;
  const int groups = sampling.groups();
  if (sampling.member * groups >= sampling.posted) return;
  const int stride = max(1, sampling.group_entries / sampling.size);
  const int threads = kThreads >> sampling.shift;
  const int group = thread * groups / kThreads;
  uint32_t own = 0;
  for (int i = thread & (threads - 1); i < sampling.size; i += threads) {
    const int at = (i * groups + group) * stride;
    if (at < slice_size) own = max(own, bits[at]);
  }
#pragma unroll
  for (int width = 16; width >= 1; width /= 2) {
    const uint32_t other = __shfl_xor_sync(0xffffffffu, own, width);
    if (width < threads) own = max(own, other);
  }
  if ((thread & (min(threads, 32) - 1)) == 0) atomicMax(memory.samples + group, own);
  __syncthreads();
  if (thread < groups) {
    StoreRelaxed(sampling.samples + sampling.member * groups + thread,
                 sampling.row_number << 32 | memory.samples[thread]);
  }
}

// Bits from which on to list entries, so that all blocks together list about as many as wanted. Of
// `count` maxima over `size` entries each, where `reached` entries of all reach some bits, about
// count * (1 - exp(-size * reached / entries)) do. Not all maxima are waited for, and a block may
// come to other bits than the others.
__device__ uint32_t EstimateLowest(const Sampling& sampling, SampleMemory& memory) {
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
  if (thread % 4 == 0 && not_below >= rank) atomicMax(&memory.lowest, value);
  __syncthreads();
  return memory.lowest;
}

// ---- Lists ----

struct GivenMemory {
  BlockMemory block;
  SampleMemory guess;
  uint32_t lowest, highest;  // of all blocks: from which on the lists are complete, what they hold
  int starts[kMaxTeam];      // of the members' lists, in pieces
  int own_pieces;

  // Before a row, and a barrier of the block.
  __device__ void Clear() {
    guess.Clear();
    if (threadIdx.x == 0) {
      lowest = 1;
      highest = 0;
    }
  }
};

// Of one row.
struct ShortRow {
  unsigned long long number;  // of the row
  int member, members;
  unsigned long long* headers;
  unsigned long long* lists;  // [members, list_words]
  int list_words;
  int listed;  // at most, of all blocks
};

__device__ ShortRow ShortRowOf(const Problem& problem, int half, unsigned long long row_number) {
  const Teams& teams = problem.teams;
  return {row_number,
          teams.Member(),
          teams.size,
          problem.states[teams.Team()].headers[half],
          problem.ListsOf(teams.Team(), half),
          problem.list_words,
          problem.listed};
}

// Posts the block's entries from `lowest` on. `marks`: a bit for each entry.
__device__ void PostList(const uint32_t* bits, Slice slice, uint32_t lowest, const ShortRow& row,
                         uint32_t* marks, GivenMemory& memory) {
  const int size = slice.size(), lane = threadIdx.x % 32;
#pragma unroll 4
  for (int begin = threadIdx.x - lane; begin < size; begin += kThreads) {
    const uint32_t value = begin + lane < size ? bits[begin + lane] : kNotAScore;
    const uint32_t mark = __ballot_sync(0xffffffffu, value >= lowest);
    if (lane == 0) marks[begin / 32] = mark;
  }
  __syncthreads();
  unsigned long long* const list = row.lists + int64_t{row.member} * row.list_words;
  const int most = row.list_words - kPieceWords;
  const int entries =
      ForMarked<kWarps>(marks, (size + 31) / 32, memory.block.warp_sums, [&](int order, int at) {
        if (order < most) list[1 + order] = ListWord(bits[at], slice.begin + at);
      });
  const int pieces = entries / kPieceWords + 1;  // with the first word
  if (entries <= most) {
    if (threadIdx.x == 0) *list = static_cast<unsigned long long>(lowest) << 32 | kLowestMark;
    const int last = entries + 1 + static_cast<int>(threadIdx.x);
    if (last < pieces * kPieceWords) list[last] = 0;
  }
  __syncthreads();
  if (threadIdx.x == 0) {
    const uint32_t count = entries <= most ? static_cast<uint32_t>(pieces) : kTooMany;
    StoreRelease(row.headers + row.member, row.number << kHeaderBits | count);
  }
}

// Reads all blocks' lists, one after the other, with zeros between; returns how many words those
// are, or 0 if they are too many. memory.lowest and memory.highest must be 1 and 0 before.
__device__ int ReadLists(const ShortRow& row, unsigned long long* words, GivenMemory& memory) {
  const int thread = threadIdx.x;
  uint32_t own = 0;
  if (thread < row.members) {
    unsigned long long header;
    do {
      header = LoadAcquire(row.headers + thread);
    } while (header >> kHeaderBits != row.number);
    own = static_cast<uint32_t>(header) & kTooMany;
  }
  const Sums<uint32_t> sums = SumOverBlock(own, memory.block);
  static_assert(kTooMany > kListed / kPieceWords && kPieceWords == 4);
  if (sums.total > row.listed / kPieceWords) return 0;
  const int pieces = static_cast<int>(sums.total);
  if (thread < kMaxTeam) {
    memory.starts[thread] = thread < row.members ? static_cast<int>(sums.before) : kListed;
  }
  if (thread == row.member) memory.own_pieces = static_cast<int>(own);
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

// Selects a row's entries from the lists that all blocks post. Returns how many are taken up to the
// block's last; -1 if the lists were of no use, which all blocks find alike. `words`: memory for
// row.listed of them.
__device__ int64_t SelectFromLists(int64_t top_k, const ShortRow& row, unsigned long long* words,
                                   GivenMemory& memory, Candidate* out) {
  const int count = ReadLists(row, words, memory);
  if (count == 0) return -1;
  const unsigned long long lowest = static_cast<unsigned long long>(memory.lowest) << 32;
  const unsigned long long highest =
      static_cast<unsigned long long>(memory.highest) << 32 | 0xffffffffu;
  unsigned long long word = FirstWord(words, count, lowest, max(lowest, highest),
                                      static_cast<uint32_t>(top_k), memory.block);
  if (word == 0) {
    if (memory.lowest > 1) return -1;
    word = 1;  // the lists hold all scores, no more than top_k: all are taken
  }
  const int begin = memory.starts[row.member] * kPieceWords + 1;
  uint32_t before = 0;
#pragma unroll 4
  for (int i = threadIdx.x; i < begin; i += kThreads) before += words[i] >= word;
  const int own = memory.own_pieces * kPieceWords - 1;
  const int per_thread = (own + kThreads - 1) / kThreads;
  const int from = begin + min(static_cast<int>(threadIdx.x) * per_thread, own);
  const int to = min(from + per_thread, begin + own);
  uint32_t taken = 0;
  for (int i = from; i < to; ++i) taken += words[i] >= word;
  const auto sums = SumOverBlock(Pair(before, taken), memory.block);
  Candidate* next = out + static_cast<uint32_t>(sums.total) + (sums.before >> 32);
  for (int i = from; i < to; ++i) {
    if (words[i] < word) continue;
    const int64_t entry = 0xffffffffu - static_cast<uint32_t>(words[i]);
    *next++ = MakeCandidate(static_cast<uint32_t>(words[i] >> 32), entry);
  }
  return static_cast<int64_t>(static_cast<uint32_t>(sums.total)) +
         static_cast<int64_t>(sums.total >> 32);
}

__global__ void __launch_bounds__(kThreads, 1)
    SelectGivenKernel(const GivenScores given, const __grid_constant__ Problem problem) {
  extern __shared__ __align__(16) float dynamic[];
  __shared__ GivenMemory memory;
  LetSuccessorsStart();
  const Teams& teams = problem.teams;
  const int member = teams.Member();
  TeamState& state = problem.states[teams.Team()];
  unsigned long long* const counts = problem.counts + teams.Team() * teams.size;
  auto* const words = reinterpret_cast<unsigned long long*>(dynamic);
  unsigned long long row_number = __ldcg(&state.row_number);
  int half = 0;
  for (int r = teams.Team(); r < problem.rows; r += teams.count, half ^= 1) {
    const GivenRow row = {given.scores + r * given.row_stride, 0, given.count};
    const Slice slice = SliceOfMember(row.begin, row.end, teams);
    uint32_t* const bits = problem.bits != nullptr
                               ? problem.BitsOf(teams.Team(), member)
                               : reinterpret_cast<uint32_t*>(dynamic + problem.scratch_floats);
    memory.Clear();
    row.Fill(slice, bits);
    Candidate* const out = problem.selected.candidates + r * problem.top_k;
    int64_t count = -1;
    ++row_number;
    if (problem.IsShort(given.count)) {
      const ShortRow short_row = ShortRowOf(problem, half, row_number);
      uint32_t lowest = 1;
      if (!problem.ListsAll(given.count)) {
        const Sampling sampling = SamplingOf(problem, given.count, row_number, state.samples[half]);
        PostSamples(bits, slice.size(), sampling, memory.guess);
        lowest = EstimateLowest(sampling, memory.guess);
      }
      PostList(bits, slice, lowest, short_row, reinterpret_cast<uint32_t*>(dynamic), memory);
      count = SelectFromLists(problem.top_k, short_row, words, memory, out);
    }
    if (count < 0) {
      count =
          SelectByDigits(row, bits, slice, problem, half, state, counts, words, memory.block, out);
    }
    if (member == teams.size - 1) PutCount(problem, r, count);
    __syncthreads();
  }
  // All have read it, as they told in the headers of their lists, or at barriers.
  if (member == 0 && threadIdx.x == 0) state.row_number = row_number;
}

}  // namespace longspan::cuda::selection

#endif  // LONGSPAN_KERNELS_CUDA_SELECT_GIVEN_CUH_
