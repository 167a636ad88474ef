#ifndef LONGSPAN_KERNELS_CUDA_SELECT_PROBLEM_CUH_
#define LONGSPAN_KERNELS_CUDA_SELECT_PROBLEM_CUH_

#include <cuda_runtime.h>

#include <cstdint>

#include "kernels/cuda/select.h"
#include "kernels/cuda/select_entries.cuh"

// What the launches of a selection are given, and share.
namespace longspan::cuda::selection {

// A score's bits are looked at in three digits, the highest first.
constexpr int kDigits = 3;
constexpr int kBins = 2048;
// At most so many that share the threshold's digits are listed and ordered.
constexpr int kListed = 8192;
// The short ways: blocks of a team, maxima that they post, of given scores and of a decoded row's,
// and the largest top_k.
constexpr int kMaxTeam = 256;
constexpr int kSamples = 128;
constexpr int kDecodeSamples = 192;
constexpr int64_t kMaxShortTopK = 3072;
// A block posts its list in pieces of so many words.
constexpr int kPieceWords = 4;

// What the blocks that score a decoded row leave for its selection, beside the scores.
struct alignas(16) DecodeHeader {
  uint32_t lowest;  // from which bits on the block's list is complete
  uint32_t shift;   // a bin of the histogram has as many bits of scores, the first from `lowest` on
  uint32_t entries;  // in the list; more than list_words: it is of no use
  uint32_t row;      // its number
};
enum class Way : uint32_t { kShort, kLong };

__device__ inline uint32_t BinOf(uint32_t bits, uint32_t lowest, uint32_t shift) {
  return min((bits - lowest) >> shift, uint32_t{kBins - 1});
}

// What the launches of decoded rows, two each, leave each other.
struct DecodeState {
  uint32_t rows;                     // over all launches; they are numbered from 1
  unsigned long long guess;          // of the first block that made one; the selection leaves zero
  uint32_t samples[kDecodeSamples];  // maxima, likewise
  // Of all listed entries. A row uses one, and clears the other for the next.
  alignas(128) uint32_t histograms[2][kBins];
  DecodeHeader headers[kMaxTeam];
  unsigned long long way;  // a row, and in the high half the Way that it went
};

// What the blocks of a team share. Of several rows of a launch one uses the half that the one
// before does not: that is cleared meanwhile, except what bears the row's number.
struct alignas(128) TeamState {
  unsigned long long row_number;                         // of the last row, over all launches
  unsigned long long samples[2][kSamples];               // row's number, bits
  alignas(128) unsigned long long headers[2][kMaxTeam];  // row's number, length of a list
  alignas(128) uint32_t barrier;
  uint32_t listed[2];  // entries in the list so far
  uint32_t histograms[2][kDigits][kBins];
  unsigned long long list[kListed];
  DecodeState decode;
};

// Lists of a decoded row's blocks: [list_words] bits for each block, then as many entries.
struct DecodeLists {
  uint32_t* bits;     // [size, list_words]
  uint32_t* entries;  // likewise
};

struct Problem {
  TeamState* states;           // [teams]
  unsigned long long* counts;  // [blocks]
  uint32_t* bits;  // [teams, Teams::size, slice]; null: blocks keep theirs in shared memory
                   // (of decoded rows their scores lie there, by entries)
  unsigned long long* lists;  // [2, blocks, list_words], of the short way; DecodeListsOf else
  int list_words;             // a multiple of kPieceWords; 0: only the long way, of given scores
  int listed;                 // entries that are ordered at once: at most kListed
  Teams teams;
  // Of a decoded row's lists 1 << preload_shift words, bits behind their ends zeros, are read
  // before it is known how long they are.
  int preload_shift;
  int rows;
  int64_t top_k;
  Selected selected;
  int64_t slice;           // entries of a block, at most
  int64_t scratch_floats;  // of the entries that are ordered

  __device__ uint32_t* BitsOf(int team, int member) const {
    return bits + (int64_t{team} * teams.size + member) * slice;
  }
  // Of a decoded row.
  __device__ float* ScoresOf(int team) const { return reinterpret_cast<float*>(BitsOf(team, 0)); }
  __device__ unsigned long long* ListsOf(int team, int half) const {
    return lists + (half * teams.count + team) * int64_t{teams.size} * list_words;
  }
  __device__ DecodeLists DecodeListsOf(int team) const {
    auto* const bits = reinterpret_cast<uint32_t*>(ListsOf(team, 0));
    return {bits, bits + int64_t{teams.size} * list_words};
  }
  __device__ bool HasDecodeLists() const { return top_k <= kMaxShortTopK; }
  __device__ bool ListsAll(int64_t entries) const {
    return entries + int64_t{kPieceWords} * teams.size <= listed;
  }
  __device__ bool IsShort(int64_t entries) const {
    return list_words > 0 && (ListsAll(entries) || top_k <= kMaxShortTopK);
  }
};

}  // namespace longspan::cuda::selection

#endif  // LONGSPAN_KERNELS_CUDA_SELECT_PROBLEM_CUH_
