#include <cuda_runtime.h>

#include <algorithm>
#include <limits>

#include "absl/strings/str_cat.h"
#include "kernels/base/status_macros.h"
#include "kernels/cuda/numbers.cuh"
#include "kernels/cuda/prefill_score_problem.cuh"
#include "kernels/cuda/vote_numbers.cuh"
#include "kernels/cuda/vote_score.h"
#include "kernels/cuda/vote_score_tiles.cuh"
#include "sharding/layer_schedule.h"

namespace longspan::cuda {
namespace {

using scoring::kTile;
using scoring::VoteProblem;

constexpr int kThreads = 256;
constexpr int kDigitBits = 16;
static_assert(kVoteSumDigits * sizeof(uint32_t) == scoring::kSumWords * sizeof(unsigned long long));

// ---- Norms ----

__global__ void __launch_bounds__(kThreads) ClearMaximaKernel(float* maxima, int64_t count) {
  const int64_t i = int64_t{blockIdx.x} * kThreads + threadIdx.x;
  if (i < count) maxima[i] = -std::numeric_limits<float>::infinity();
}

// A thread has a sum and its place.
__global__ void __launch_bounds__(kThreads) SplitSumsKernel(uint4* sums, int64_t count) {
  const int64_t i = int64_t{blockIdx.x} * kThreads + threadIdx.x;
  if (i >= count) return;
  constexpr uint32_t kMask = (1u << kDigitBits) - 1;
  const uint4 sum = sums[i];  // 64 bits, in x and y
  sums[i] = {sum.x & kMask, sum.x >> kDigitBits, sum.y & kMask, sum.y >> kDigitBits};
}

__device__ float WeightOf(const uint4& digits, int bits) {
  const uint64_t sum = uint64_t{digits.x} + (uint64_t{digits.y} << kDigitBits) +
                       (uint64_t{digits.z} << 2 * kDigitBits) +
                       (uint64_t{digits.w} << 3 * kDigitBits);
  return sum == 0 ? 0 : static_cast<float>(1 / ldexp(static_cast<double>(sum), -bits));
}

// A block of threads has a voter of a selection block.
__global__ void __launch_bounds__(kThreads)
    WeighKernel(const ScoredBlock* blocks, const uint4* sums, float* weights, int64_t rows) {
  const ScoredBlock block = blocks[blockIdx.x];
  const int bits = VoteSumBits(block.middle.end - block.middle.begin);
  const int64_t first = blockIdx.y * rows + block.first_query;
  for (int64_t c = threadIdx.x; c < block.queries; c += kThreads) {
    weights[first + c] = WeightOf(sums[first + c], bits);
  }
}

// ---- Passes ----

absl::Status CheckVoters(const Voters& voters, const PrefillScoreArgs& blocks) {
  const int64_t bytes = voters.dim * SizeOf(blocks.dtype);
  if (voters.count >= 1 && voters.count <= kMaxVoters && voters.to_a_slice >= 1 &&
      voters.count % voters.to_a_slice == 0 && voters.dim >= 1 && bytes % kScoreRowAlignment == 0 &&
      voters.key_dim() == blocks.dim) {
    return absl::OkStatus();
  }
  return absl::InvalidArgumentError(
      absl::StrCat("no scores of keys of ", blocks.dim, " numbers by ", voters.count, " voters, ",
                   voters.to_a_slice, " to a slice of ", voters.dim, " numbers, ", bytes,
                   " bytes, which are to be a multiple of ", kScoreRowAlignment));
}

VoteProblem WithVoters(const VoteScoreArgs& args, const VoteNorms& norms,
                       const scoring::Problem& tiles) {
  const Voters& voters = args.voters;
  const int64_t query_number = tiles.row_bytes / args.blocks.dim;
  VoteProblem problem;
  problem.tiles = tiles;
  problem.tiles.row_bytes = voters.query_dim() * query_number;
  problem.voters = static_cast<int>(voters.count);
  problem.to_a_slice = static_cast<int>(voters.to_a_slice);
  problem.slice_bytes = voters.dim * query_number;
  problem.key_slice_bytes = voters.dim * SizeOf(args.blocks.dtype);
  problem.scale_log2 = voters.scale * kLog2E;
  problem.rows = norms.rows;
  problem.is_soft = voters.soft;
  problem.maxima = norms.maxima;
  problem.sums = reinterpret_cast<unsigned long long*>(norms.sums);
  problem.weights = norms.weights;
  return problem;
}

absl::Status Launch(void (*kernel)(VoteProblem), dim3 grid, const VoteProblem& problem,
                    Stream stream) {
  // The same for every launch: ranks may be threads of one process.
  LONGSPAN_RETURN_IF_ERROR(
      ToStatus(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                    scoring::kTileSharedBytes),
               "shared memory of votes"));
  kernel<<<grid, scoring::kTileThreads, scoring::kTileSharedBytes, stream>>>(problem);
  return CheckLaunch("votes");
}

// use.template operator()<Products, kFp8Keys>(), which chooses the kernel.
template <typename Use>
absl::Status WithProducts(DType dtype, Use&& use) {
  switch (dtype) {
    case DType::kFloat32:
      return use.template operator()<scoring::FloatProducts, false>();
    case DType::kFloat8E4M3:
      return use.template operator()<scoring::BFloat16Products, true>();
    default:
      return use.template operator()<scoring::BFloat16Products, false>();
  }
}

int TilesOf(int64_t count) { return static_cast<int>((count + kTile - 1) / kTile); }

// A pass in which tiles of queries stay, those of each voter apart. `resident`: thread blocks that
// a multiprocessor has room for.
absl::Status LaunchByVoter(void (*kernel)(VoteProblem), int resident, int64_t max_queries,
                           VoteProblem problem, Stream stream) {
  scoring::Problem& tiles = problem.tiles;
  tiles.query_tiles = TilesOf(max_queries);
  tiles.key_tiles = TilesOf(tiles.keys.count);
  const int64_t groups = int64_t{tiles.num_blocks} * tiles.query_tiles;
  const int of_voter = std::max(1, scoring::Multiprocessors() * resident / problem.voters);
  tiles.splits = scoring::SplitsFor(groups, tiles.key_tiles, of_voter);
  const int64_t blocks = std::min<int64_t>(of_voter, groups * tiles.splits);
  return Launch(kernel, dim3(static_cast<unsigned>(blocks), problem.voters), problem, stream);
}

}  // namespace

absl::Status ClearVoteNorms(const Voters& voters, const VoteNorms& norms, Stream stream) {
  const int64_t count = voters.count * norms.rows;
  const int64_t maxima = voters.soft ? count : norms.rows;
  if (maxima == 0) return absl::OkStatus();
  ClearMaximaKernel<<<BlocksOf(maxima, kThreads), kThreads, 0, stream>>>(norms.maxima, maxima);
  LONGSPAN_RETURN_IF_ERROR(CheckLaunch("ClearVoteNorms"));
  if (!voters.soft) return absl::OkStatus();
  return Fill(norms.sums, 0, count * static_cast<int64_t>(sizeof(uint4)), stream);
}

absl::Status SplitVoteSums(const Voters& voters, const VoteNorms& norms, Stream stream) {
  const int64_t count = voters.count * norms.rows;
  if (count == 0) return absl::OkStatus();
  SplitSumsKernel<<<BlocksOf(count, kThreads), kThreads, 0, stream>>>(
      reinterpret_cast<uint4*>(norms.sums), count);
  return CheckLaunch("SplitVoteSums");
}

absl::Status WeighVotes(const Voters& voters, const VoteNorms& norms, const ScoredBlock* blocks,
                        int num_blocks, Stream stream) {
  if (num_blocks == 0) return absl::OkStatus();
  const dim3 grid(num_blocks, static_cast<unsigned>(voters.count));
  WeighKernel<<<grid, kThreads, 0, stream>>>(blocks, reinterpret_cast<const uint4*>(norms.sums),
                                             norms.weights, norms.rows);
  return CheckLaunch("WeighVotes");
}

absl::Status PrefillVoteMaxima(const VoteScoreArgs& args, const VoteNorms& norms, Stream stream) {
  LONGSPAN_RETURN_IF_ERROR(CheckVoters(args.voters, args.blocks));
  LONGSPAN_ASSIGN_OR_RETURN(const scoring::Problem tiles, scoring::MakeProblem(args.blocks));
  if (tiles.num_blocks == 0 || args.blocks.max_queries == 0 || tiles.keys.count == 0) {
    return absl::OkStatus();
  }
  return WithProducts(args.blocks.dtype, [&]<typename Products, bool kFp8Keys>() {
    return LaunchByVoter(scoring::VoteMaximaKernel<Products, kFp8Keys>,
                         Products::kBlocksPerMultiprocessor, args.blocks.max_queries,
                         WithVoters(args, norms, tiles), stream);
  });
}

absl::Status PrefillVoteSums(const VoteScoreArgs& args, const VoteNorms& norms, Stream stream) {
  LONGSPAN_RETURN_IF_ERROR(CheckVoters(args.voters, args.blocks));
  LONGSPAN_ASSIGN_OR_RETURN(const scoring::Problem tiles, scoring::MakeProblem(args.blocks));
  if (tiles.num_blocks == 0 || args.blocks.max_queries == 0 || tiles.keys.count == 0) {
    return absl::OkStatus();
  }
  return WithProducts(args.blocks.dtype, [&]<typename Products, bool kFp8Keys>() {
    return LaunchByVoter(scoring::VoteSumsKernel<Products, kFp8Keys>, /*resident=*/1,
                         args.blocks.max_queries, WithVoters(args, norms, tiles), stream);
  });
}

absl::Status PrefillVoteScores(const VoteScoreArgs& args, const VoteNorms& norms,
                               const PrefillScoresOut& out, Stream stream) {
  LONGSPAN_RETURN_IF_ERROR(CheckVoters(args.voters, args.blocks));
  LONGSPAN_ASSIGN_OR_RETURN(scoring::Problem tiles,
                            scoring::MakeScoresProblem(args.blocks, norms.maxima, out));
  if (tiles.num_blocks == 0 || tiles.keys.count == 0) return absl::OkStatus();
  if (args.blocks.max_queries > 0) {
    tiles.key_tiles = TilesOf(tiles.keys.count);
    const int64_t items = int64_t{tiles.key_tiles} * tiles.num_blocks;
    const dim3 grid(static_cast<unsigned>(std::min<int64_t>(scoring::Multiprocessors(), items)));
    const VoteProblem problem = WithVoters(args, norms, tiles);
    LONGSPAN_RETURN_IF_ERROR(
        WithProducts(args.blocks.dtype, [&]<typename Products, bool kFp8Keys>() {
          return Launch(args.voters.soft ? scoring::VoteScoresKernel<Products, true, kFp8Keys>
                                         : scoring::VoteScoresKernel<Products, false, kFp8Keys>,
                        grid, problem, stream);
        }));
  }
  return scoring::Spread(tiles, out, stream);
}

}  // namespace longspan::cuda
