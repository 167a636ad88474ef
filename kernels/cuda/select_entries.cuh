#ifndef LONGSPAN_KERNELS_CUDA_SELECT_ENTRIES_CUH_
#define LONGSPAN_KERNELS_CUDA_SELECT_ENTRIES_CUH_

#include <cstdint>

#include "sharding/topk_merge.h"

// What the parts of a selection share: entries of a row, their bits, and who has which. A block's
// slice of a row has scores, given or computed in a launch before (decode_score.cuh), that are
// ordered as bits.
namespace longspan::cuda::selection {

constexpr int kThreads = 512;
constexpr int kWarps = kThreads / 32;
// Order-preserving bits as in sharding/topk_merge.h, but that 0 is no score at all, and NaN the
// first of the second bin: -inf lies higher, and the first bin stays empty.
constexpr uint32_t kNotAScore = 0;
constexpr uint32_t kNanBits = 1u << 21;
constexpr uint32_t kNoTie = 0xffffffff;  // the bits of no score

__device__ inline uint32_t BitsOf(float score) {
  if (score != score) return kNanBits;
  const uint32_t bits = __float_as_uint(score + 0.0f);
  return (bits & 0x80000000u) != 0 ? ~bits : bits | 0x80000000u;
}

__device__ inline Candidate MakeCandidate(uint32_t bits, int64_t position) {
  const uint64_t high = bits == kNanBits ? 0 : bits;
  return high << 32 | (0xffffffffu - static_cast<uint32_t>(position));
}

// Blocks take rows in teams of one size, a row at a time.
struct Teams {
  int count = 1;
  int size = 1;

  __device__ int Team() const { return blockIdx.x / size; }
  __device__ int Member() const { return blockIdx.x % size; }
};

// Part of a row: entries [begin, end), of which a source says which are scores.
struct Slice {
  int64_t begin, end;

  __device__ int size() const { return static_cast<int>(end - begin); }
};

__device__ inline Slice SliceOfMember(int64_t begin, int64_t end, const Teams& teams) {
  const int64_t size = (end - begin + teams.size - 1) / teams.size;
  const int64_t first = min(begin + size * teams.Member(), end);
  return {first, min(first + size, end)};
}

}  // namespace longspan::cuda::selection

#endif  // LONGSPAN_KERNELS_CUDA_SELECT_ENTRIES_CUH_
