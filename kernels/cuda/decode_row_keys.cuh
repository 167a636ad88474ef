#ifndef LONGSPAN_KERNELS_CUDA_DECODE_ROW_KEYS_CUH_
#define LONGSPAN_KERNELS_CUDA_DECODE_ROW_KEYS_CUH_

#include <cuda_runtime.h>

#include <cstdint>

#include "kernels/cuda/select.h"
#include "kernels/cuda/select_entries.cuh"

namespace longspan::cuda::selection {

// Entries of a decoded row: its pages' score keys, halos included, through the pages that hold any
// of the middle; those of the stripes are scores.
struct DecodeRowKeys {
  const DecodeSelectArgs& args;
  uint32_t first, last;        // the middle, in positions
  int64_t begin = 0, end = 0;  // entries; below 2^32, as positions are

  __device__ DecodeRowKeys(const DecodeSelectArgs& args, const DecodeRow& sequence) : args(args) {
    const int64_t middle_begin = args.initial_tokens;
    const int64_t middle_end = max(middle_begin, sequence.position - args.local_tokens);
    first = static_cast<uint32_t>(middle_begin);
    last = static_cast<uint32_t>(middle_end);
    const int64_t from = args.geometry.OwnedBefore(middle_begin);
    const int64_t to = args.geometry.OwnedBefore(middle_end);
    if (from < to) {
      begin = Entry(from);
      end = Entry(to - 1) + 1;
    }
  }

  __device__ uint32_t Stride() const { return args.geometry.stripe_tokens + 2 * args.halo; }
  __device__ int64_t Entry(int64_t local) const {
    const int64_t page = local / args.geometry.stripe_tokens;
    return page * Stride() + args.halo + local % args.geometry.stripe_tokens;
  }
  // Of any row of a page: that of a halo is its neighbour's.
  __device__ uint32_t PositionAt(uint32_t page, uint32_t row) const {
    return (page * args.geometry.num_ranks + args.geometry.rank) * args.geometry.stripe_tokens +
           row - args.halo;
  }
  __device__ uint32_t Position(uint32_t entry) const {
    return PositionAt(entry / Stride(), entry % Stride());
  }
  __device__ bool InStripe(uint32_t row) const {
    return row - args.halo < static_cast<uint32_t>(args.geometry.stripe_tokens);
  }
};

// The bits of entries whose scores lie in memory, not yet spread over proximity.
struct StoredScores {
  const DecodeRowKeys& row;
  const float* scores;   // of all entries
  uint32_t first_entry;  // that of [0]

  __device__ uint32_t operator[](int i) const {
    const uint32_t entry = first_entry + i;
    if (!row.InStripe(entry % row.Stride())) return kNotAScore;
    float best = __ldcg(scores + entry);
    for (int by = 1; by <= row.args.proximity; ++by) {
      best = fmaxf(best, fmaxf(__ldcg(scores + entry - by), __ldcg(scores + entry + by)));
    }
    return BitsOf(best);
  }
};

}  // namespace longspan::cuda::selection

#endif  // LONGSPAN_KERNELS_CUDA_DECODE_ROW_KEYS_CUH_
