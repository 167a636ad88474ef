#ifndef LONGSPAN_KERNELS_CUDA_SCORE_SOURCE_CUH_
#define LONGSPAN_KERNELS_CUDA_SCORE_SOURCE_CUH_

#include <cuda_runtime.h>

#include <cstdint>

#include "kernels/cuda/select.h"
#include "kernels/cuda/select_entries.cuh"

// Where a selection's scores are: given, or where the scores of a decoded row's keys were stored,
// and which entries these are.
namespace longspan::cuda::selection {

struct GivenScores {
  static constexpr bool kAreStored = false;

  const float* scores;
  int64_t row_stride;
  int64_t count;

  struct Row {
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
  __device__ Row At(int row) const { return {scores + row * row_stride, 0, count}; }
};

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

// Scores that decode_score.cuh left in Problem::bits, a row for each team.
struct DecodeScores {
  static constexpr bool kAreStored = true;
  using Row = DecodeRowKeys;

  DecodeSelectArgs args;

  __device__ Row At(int row) const { return Row(args, args.sequences[row]); }
};

}  // namespace longspan::cuda::selection

#endif  // LONGSPAN_KERNELS_CUDA_SCORE_SOURCE_CUH_
