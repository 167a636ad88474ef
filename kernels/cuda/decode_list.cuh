#ifndef LONGSPAN_KERNELS_CUDA_DECODE_LIST_CUH_
#define LONGSPAN_KERNELS_CUDA_DECODE_LIST_CUH_

#include <cuda_runtime.h>

#include <cstdint>

#include "kernels/cuda/decode_guess.cuh"
#include "kernels/cuda/select_lists.cuh"
#include "kernels/cuda/select_problem.cuh"

namespace longspan::cuda::selection {

// The list of a block of a decoded row's scores, and its part in the row's histogram.
struct DecodeListWriter {
  const Problem& problem;
  int entries = 0;  // so far; in the list as far as it has room

  __device__ DecodeLists Lists() const {
    const DecodeLists lists = problem.DecodeListsOf(problem.teams.Team());
    const int64_t first = int64_t{problem.teams.Member()} * problem.list_words;
    return {lists.bits + first, lists.entries + first};
  }

  // Adds the marked entries from `first` on, whose bits are bits_at(i).
  template <int kBlockWarps, typename BitsAt>
  __device__ void Add(uint32_t first, const uint32_t* marks, int num_marks, BitsAt&& bits_at,
                      const DecodeGuess& guess, uint32_t* histogram,
                      unsigned long long* warp_sums) {
    const DecodeLists lists = Lists();
    entries += ForMarked<kBlockWarps>(marks, num_marks, warp_sums, [&](int order, int at) {
      const int to = entries + order;
      if (to >= problem.list_words) return;
      const uint32_t value = bits_at(at);
      lists.bits[to] = value;
      lists.entries[to] = first + at;
      atomicAdd(histogram + BinOf(value, guess.lowest, guess.shift), 1u);
    });
  }

  // By the whole block, when all is added.
  __device__ void Post(const DecodeGuess& guess, DecodeState* state) const {
    const Teams& teams = problem.teams;
    const int thread = threadIdx.x, threads = blockDim.x;
    uint32_t* const bits = Lists().bits;
    for (int i = entries + thread; i < (1 << problem.preload_shift); i += threads) bits[i] = 0;
    uint32_t* const next = state->histograms[(guess.row + 1) % 2];
    for (int i = teams.Member() * threads + thread; i < kBins; i += teams.size * threads) {
      next[i] = 0;
    }
    if (thread > 0) return;
    const auto count =
        static_cast<uint32_t>(guess.lowest == kNoGuess ? problem.list_words + 1 : entries);
    state->headers[teams.Member()] = {guess.lowest, guess.shift, count, guess.row};
  }
};

}  // namespace longspan::cuda::selection

#endif  // LONGSPAN_KERNELS_CUDA_DECODE_LIST_CUH_
