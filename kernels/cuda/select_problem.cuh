#ifndef LONGSPAN_KERNELS_CUDA_SELECT_PROBLEM_CUH_
#define LONGSPAN_KERNELS_CUDA_SELECT_PROBLEM_CUH_

#include <cuda_runtime.h>

#include <bit>
#include <cstdint>

#include "kernels/cuda/grid_barrier.cuh"
#include "kernels/cuda/select.h"
#include "kernels/cuda/select_entries.cuh"

// What the launches of a selection are given, and the samples that its short way begins with
// (radix_select.cuh): posted by the selection itself, or by the kernel that leaves scores for it.
namespace longspan::cuda::selection {

// A score's bits are looked at in three digits, the highest first.
constexpr int kDigits = 3;
constexpr int kBins = 2048;
// At most so many that share the threshold's digits are listed and ordered.
constexpr int kListed = 8192;
// The short way: blocks of a team, maxima that they post, and the largest top_k.
constexpr int kMaxTeam = 256;
constexpr int kSamples = 128;
constexpr int64_t kMaxShortTopK = 3072;
// A block posts its list in pieces of so many words.
constexpr int kPieceWords = 4;

// What the blocks of a team share. A row uses the half that the row before does not: that is
// cleared meanwhile, except what bears the row's number.
struct alignas(128) TeamState {
  unsigned long long row_number;                         // of the last row, over all launches
  unsigned long long samples[2][kSamples];               // row's number, bits
  alignas(128) unsigned long long headers[2][kMaxTeam];  // row's number, length of a list
  alignas(128) uint32_t barrier;
  uint32_t listed[2];  // entries in the list so far
  uint32_t histograms[2][kDigits][kBins];
  unsigned long long list[kListed];
};

struct Problem {
  TeamState* states;           // [teams]
  unsigned long long* counts;  // [blocks]
  uint32_t* bits;  // [teams, Teams::size, slice]; null: blocks keep theirs in shared memory
  unsigned long long* lists;  // [2, blocks, list_words], of the short way
  int list_words;             // a multiple of kPieceWords; 0: only the long way
  int listed;                 // entries that are ordered at once: at most kListed
  Teams teams;
  int rows;
  int64_t top_k;
  Selected selected;
  int64_t slice;           // entries of a block, at most
  int64_t scratch_floats;  // of the entries that are ordered

  __device__ uint32_t* BitsOf(int team, int member) const {
    return bits + (int64_t{team} * teams.size + member) * slice;
  }
  __device__ bool ListsAll(int64_t entries) const {
    return entries + int64_t{kPieceWords} * teams.size <= listed;
  }
  __device__ bool IsShort(int64_t entries) const {
    return list_words > 0 && (ListsAll(entries) || top_k <= kMaxShortTopK);
  }
};

// ---- Samples ----

// Of the entries of one row: blocks post `posted` maxima, each over `size` entries, of which a
// block's groups of threads find one each.
struct Sampling {
  unsigned long long row_number;  // 0: the launch before posted them, and so all are there
  unsigned long long* samples;    // of the team's state: row's number, bits
  int member;
  int shift;  // 1 << shift groups, as divisions would take longer than all the rest
  int posted;
  int group_entries;  // of a block's share of a group
  int size;
  float entries_per_wanted;  // entries that the lists should hold

  __device__ int groups() const { return 1 << shift; }
};

__device__ Sampling SamplingOf(const Problem& problem, int64_t entries,
                               unsigned long long* samples) {
  constexpr float kLoad = 1.5f;  // wanted entries in a group: the estimate varies least
  const int members = problem.teams.size;
  Sampling sampling = {0, samples, problem.teams.Member()};
  while ((2 << sampling.shift) * members <= kSamples) ++sampling.shift;
  sampling.posted = sampling.groups() * min(members, kSamples);
  sampling.group_entries = static_cast<int>((entries + members - 1) / members) >> sampling.shift;
  const float wanted = 1.9f * static_cast<float>(problem.top_k) + 64.0f;
  sampling.entries_per_wanted = __fdividef(static_cast<float>(entries), wanted);
  sampling.size = max(
      1, min(static_cast<int>(kLoad * sampling.entries_per_wanted) + 1, sampling.group_entries));
  return sampling;
}

// Posts the block's maxima. best: [kSamples] in shared memory, zeros.
template <int kBlockThreads>
__device__ void PostSamples(const uint32_t* bits, int slice_size, const Sampling& sampling,
                            uint32_t* best) {
  constexpr int kSampling = std::bit_floor(unsigned{kBlockThreads});
  static_assert(kSampling >= kSamples);
  const int thread = threadIdx.x;
  const int groups = sampling.groups();
  if (sampling.member * groups >= sampling.posted) return;
  const int stride = max(1, sampling.group_entries / sampling.size);
  const int threads = kSampling >> sampling.shift;
  const int group = thread * groups / kSampling;
  uint32_t own = 0;
  for (int i = thread & (threads - 1); i < sampling.size && thread < kSampling; i += threads) {
    const int at = (i * groups + group) * stride;
    if (at < slice_size) own = max(own, bits[at]);
  }
#pragma unroll
  for (int width = 16; width >= 1; width /= 2) {
    const uint32_t other = __shfl_xor_sync(0xffffffffu, own, width);
    if (width < threads) own = max(own, other);
  }
  if (thread < kSampling && (thread & (min(threads, 32) - 1)) == 0) atomicMax(best + group, own);
  __syncthreads();
  if (thread < groups) {
    StoreRelaxed(sampling.samples + sampling.member * groups + thread,
                 sampling.row_number << 32 | best[thread]);
  }
}

}  // namespace longspan::cuda::selection

#endif  // LONGSPAN_KERNELS_CUDA_SELECT_PROBLEM_CUH_
