#ifndef LONGSPAN_KERNELS_CUDA_VOTE_SCORE_TILES_CUH_
#define LONGSPAN_KERNELS_CUDA_VOTE_SCORE_TILES_CUH_

#include <cuda_runtime.h>

#include <cstdint>
#include <limits>

#include "kernels/cuda/async_copy.cuh"
#include "kernels/cuda/prefill_score_jobs.cuh"
#include "kernels/cuda/prefill_score_tiles.cuh"
#include "kernels/cuda/vote_numbers.cuh"

// The passes of vote_score.h, over the tiles of prefill_score_tiles.cuh. A tile is of one voter's
// slices: there is a product for each query, key and voter. In the first two passes a tile of one
// voter's queries (the grid's y) stays and meets keys, in the last one a tile of keys stays and
// meets queries, voter by voter.
namespace longspan::cuda::scoring {

struct VoteProblem {
  Problem tiles;  // its row_bytes are those of all of a query
  int voters = 1;
  int to_a_slice = 1;           // voters that read the same slice of a key
  int64_t slice_bytes = 0;      // of a query, and of a key as it is multiplied
  int64_t key_slice_bytes = 0;  // of a key in the cache
  float scale_log2 = 1;         // the voters' scale times kLog2E
  int64_t rows = 0;             // of `maxima`, `sums` and `weights`, from one voter to the next
  bool is_soft = false;         // else all voters have the maxima of the first
  float* maxima = nullptr;
  unsigned long long* sums = nullptr;  // every kSumWords-th
  const float* weights = nullptr;

  __device__ float* MaximaOf(int voter) const { return maxima + (is_soft ? voter * rows : 0); }
  // Of a voter's numbers; NaN for a row behind the block's last query, so that it counts nowhere.
  __device__ static float NumberOf(const float* numbers, const ScoredBlock& block, int64_t query) {
    return query < block.queries ? __ldg(numbers + block.first_query + query)
                                 : __uint_as_float(0x7fffffff);
  }
};
constexpr int kSumWords = 2;  // of 64 bits, of one place among the sums

// The products of a job's tiles, one tile of one voter after the other. By a whole block.
template <typename Products, bool kQueriesStay, bool kFp8Keys>
class VoteProducts {
 public:
  // voter: the only one, if queries stay; else the first.
  __device__ VoteProducts(const VoteProblem& problem, const Job& job, int voter,
                          std::byte* operands)
      : problem_(problem),
        job_(job),
        operands_(operands),
        panels_(static_cast<int>((problem.slice_bytes + kPanelBytes - 1) / kPanelBytes)),
        voter_(voter),
        tile_(job.begin) {
    if constexpr (kQueriesStay) {
      queries_.Find(problem.tiles, job.block, job.fixed);
    } else {
      keys_.Find(problem.tiles.keys, job.fixed);
    }
#pragma unroll
    for (int stage = 0; stage < kTileStages - 1; ++stage) Start(stage);
  }

  __device__ void Next(float (&sums)[kThreadRows][kThreadRows]) {
#pragma unroll
    for (auto& row : sums) {
#pragma unroll
      for (float& sum : row) sum = 0;
    }
    for (int panel = 0; panel < panels_; ++panel) {
      AwaitCopies<kTileStages - 2>();
      __syncthreads();
      Start((stage_ + kTileStages - 1) % kTileStages);
      const std::byte* const from = operands_ + stage_ * 2 * kOperandBytes;
      const int64_t rest = problem_.slice_bytes - int64_t{panel} * kPanelBytes;
      Products::Add(from, from + kOperandBytes, static_cast<int>(min(rest, int64_t{kPanelBytes})),
                    sums);
      stage_ = (stage_ + 1) % kTileStages;
    }
  }

 private:
  __device__ void Start(int stage) {
    if (tile_ < job_.end) {
      if (panel_ == 0) FindRows();
      std::byte* const to = operands_ + stage * 2 * kOperandBytes;
      queries_.Start(panel_, problem_.slice_bytes, to, voter_ * problem_.slice_bytes);
      const int64_t skipped = voter_ / problem_.to_a_slice * problem_.key_slice_bytes;
      if constexpr (kFp8Keys) {
        keys_.Convert(panel_, problem_.slice_bytes, to + kOperandBytes, skipped);
      } else {
        keys_.Start(panel_, problem_.slice_bytes, to + kOperandBytes, skipped);
      }
      if (++panel_ == panels_) Advance();
    }
    CommitCopies();
  }
  __device__ void FindRows() {
    const int64_t first = int64_t{tile_} * kTile;
    if constexpr (kQueriesStay) {
      keys_.Find(problem_.tiles.keys, first);
    } else if (voter_ == 0) {
      queries_.Find(problem_.tiles, job_.block, first);
    }
  }
  __device__ void Advance() {
    panel_ = 0;
    if constexpr (!kQueriesStay) {
      if (++voter_ < problem_.voters) return;
      voter_ = 0;
    }
    ++tile_;
  }

  const VoteProblem& problem_;
  const Job& job_;
  std::byte* const operands_;
  const int panels_;
  RowCopies queries_, keys_;
  // What is read next.
  int voter_, tile_, panel_ = 0;
  int stage_ = 0;  // of the products that come next
};

// Calls use(j) for the thread's keys of a tile that are own positions of the middle.
template <typename Products, typename Use>
__device__ __forceinline__ void ForOwnKeys(const Entries& keys, int tile, Range middle, Use&& use) {
  const auto entry = static_cast<uint32_t>(tile) * kTile;
  const bool all = keys.AllCount(entry, kTile, middle);
#pragma unroll
  for (int j = 0; j < kThreadRows; ++j) {
    if (all || keys.Counts(entry + Products::Key(j), middle)) use(j);
  }
}

template <typename Products, bool kFp8Keys>
__global__ void __launch_bounds__(kTileThreads, Products::kBlocksPerMultiprocessor)
    VoteMaximaKernel(const __grid_constant__ VoteProblem problem) {
  extern __shared__ __align__(1024) std::byte operands[];
  __shared__ uint32_t reduced[kTile];  // ordered bits
  float* const maxima = problem.MaximaOf(blockIdx.y);
  Jobs<true, kTile, kTile> jobs(problem.tiles);
  for (Job job; jobs.Next(&job);) {
    if (threadIdx.x < kTile) reduced[threadIdx.x] = 0;
    VoteProducts<Products, true, kFp8Keys> products(problem, job, blockIdx.y, operands);
    float best[kThreadRows];
#pragma unroll
    for (float& b : best) b = __uint_as_float(0x7fffffff);  // any number wins
    for (int tile = job.begin; tile < job.end; ++tile) {
      float sums[kThreadRows][kThreadRows];
      products.Next(sums);
      ForOwnKeys<Products>(problem.tiles.keys, tile, job.block.middle, [&](int j) {
#pragma unroll
        for (int i = 0; i < kThreadRows; ++i) best[i] = fmaxf(best[i], sums[i][j]);
      });
    }
#pragma unroll
    for (int i = 0; i < kThreadRows; ++i) {
      atomicMax(reduced + Products::Query(i), OrderedBits(best[i]));
    }
    __syncthreads();
    const int64_t query = job.fixed + threadIdx.x;
    if (threadIdx.x < kTile && query < job.block.queries) {
      const float value = FromOrderedBits(reduced[threadIdx.x]);
      if (value > -std::numeric_limits<float>::infinity()) {
        AtomicMax(maxima + job.block.first_query + query, value);
      }
    }
    __syncthreads();
  }
}

template <typename Products, bool kFp8Keys>
__global__ void __launch_bounds__(kTileThreads, 1)
    VoteSumsKernel(const __grid_constant__ VoteProblem problem) {
  extern __shared__ __align__(1024) std::byte operands[];
  __shared__ unsigned long long reduced[kTile];
  const float* const maxima = problem.MaximaOf(blockIdx.y);
  unsigned long long* const out = problem.sums + blockIdx.y * problem.rows * kSumWords;
  Jobs<true, kTile, kTile> jobs(problem.tiles);
  for (Job job; jobs.Next(&job);) {
    if (threadIdx.x < kTile) reduced[threadIdx.x] = 0;
    VoteProducts<Products, true, kFp8Keys> products(problem, job, blockIdx.y, operands);
    const float units = VoteUnits(VoteSumBits(job.block.middle.end - job.block.middle.begin));
    float maximum[kThreadRows];
    unsigned long long counted[kThreadRows] = {};
#pragma unroll
    for (int i = 0; i < kThreadRows; ++i) {
      maximum[i] = VoteProblem::NumberOf(maxima, job.block, job.fixed + Products::Query(i));
    }
    for (int tile = job.begin; tile < job.end; ++tile) {
      float sums[kThreadRows][kThreadRows];
      products.Next(sums);
      ForOwnKeys<Products>(problem.tiles.keys, tile, job.block.middle, [&](int j) {
#pragma unroll
        for (int i = 0; i < kThreadRows; ++i) {
          counted[i] +=
              InVoteUnits(VoteExponential(sums[i][j], maximum[i], problem.scale_log2), units);
        }
      });
    }
#pragma unroll
    for (int i = 0; i < kThreadRows; ++i) atomicAdd(reduced + Products::Query(i), counted[i]);
    __syncthreads();
    const int64_t query = job.fixed + threadIdx.x;
    if (threadIdx.x < kTile && query < job.block.queries) {
      atomicAdd(out + (job.block.first_query + query) * kSumWords, reduced[threadIdx.x]);
    }
    __syncthreads();
  }
}

// best[j] = the best of it and of a tile of queries, of the thread's keys: their shares of all
// voters' votes, or their scores by each voter relative to the maximum of all.
template <typename Products, bool kSoft, typename Pipe>
__device__ __forceinline__ void MeetVoters(const VoteProblem& problem, const ScoredBlock& block,
                                           int64_t first_query, Pipe* products,
                                           float (&best)[kThreadRows]) {
  float votes[kSoft ? kThreadRows : 1][kThreadRows] = {};
  for (int voter = 0; voter < problem.voters; ++voter) {
    float sums[kThreadRows][kThreadRows];
    products->Next(sums);
#pragma unroll
    for (int i = 0; i < kThreadRows; ++i) {
      const int64_t query = first_query + Products::Query(i);
      const float maximum = VoteProblem::NumberOf(problem.MaximaOf(voter), block, query);
      if constexpr (kSoft) {
        const float weight =
            VoteProblem::NumberOf(problem.weights + voter * problem.rows, block, query);
#pragma unroll
        for (int j = 0; j < kThreadRows; ++j) {
          AddVote(VoteExponential(sums[i][j], maximum, problem.scale_log2), weight, &votes[i][j]);
        }
      } else {
#pragma unroll
        for (int j = 0; j < kThreadRows; ++j) best[j] = fmaxf(best[j], sums[i][j] - maximum);
      }
    }
  }
  if constexpr (kSoft) {
#pragma unroll
    for (int i = 0; i < kThreadRows; ++i) {
#pragma unroll
      for (int j = 0; j < kThreadRows; ++j) best[j] = fmaxf(best[j], votes[i][j]);
    }
  }
}

template <typename Products, bool kSoft, bool kFp8Keys>
__global__ void __launch_bounds__(kTileThreads, 1)
    VoteScoresKernel(const __grid_constant__ VoteProblem problem) {
  extern __shared__ __align__(1024) std::byte operands[];
  __shared__ uint32_t reduced[kTile];  // ordered bits
  const Problem& tiles = problem.tiles;
  Jobs<false, kTile, kTile> jobs(tiles);
  for (Job job; jobs.Next(&job);) {
    if (threadIdx.x < kTile) reduced[threadIdx.x] = 0;
    VoteProducts<Products, false, kFp8Keys> products(problem, job, 0, operands);
    float best[kThreadRows];
#pragma unroll
    for (float& b : best) b = __uint_as_float(0x7fffffff);  // any number wins
    for (int tile = job.begin; tile < job.end; ++tile) {
      MeetVoters<Products, kSoft>(problem, job.block, int64_t{tile} * kTile, &products, best);
    }
#pragma unroll
    for (int j = 0; j < kThreadRows; ++j) {
      atomicMax(reduced + Products::Key(j), OrderedBits(best[j]));
    }
    __syncthreads();
    const int64_t row = job.fixed + threadIdx.x;
    if (threadIdx.x < kTile && row < tiles.keys.count) {
      tiles.best[job.block_index * tiles.best_stride + row] = FromOrderedBits(reduced[threadIdx.x]);
    }
    __syncthreads();
  }
}

}  // namespace longspan::cuda::scoring

#endif  // LONGSPAN_KERNELS_CUDA_VOTE_SCORE_TILES_CUH_
