#include <cuda_runtime.h>

#include <algorithm>
#include <limits>

#include "absl/strings/str_cat.h"
#include "kernels/base/status_macros.h"
#include "kernels/cuda/numbers.cuh"
#include "kernels/cuda/prefill_score.h"
#include "kernels/cuda/prefill_score_jobs.cuh"
#include "kernels/cuda/prefill_score_problem.cuh"
#include "kernels/cuda/prefill_score_tiles.cuh"
#include "kernels/cuda/prefill_score_warpgroups.cuh"

// Both passes multiply tiles of queries and keys on the chip and keep maxima only. Pass one: a
// thread block has a tile of queries and goes through keys, and its maxima meet those of others in
// an atomic. Pass two: it has a tile of keys and goes through all queries of a block, so that F is
// written once; a last kernel spreads it. Neither maxima nor F depend on which tile a product was
// in, for it is the same sequence of instructions everywhere.
namespace longspan::cuda {
namespace {

using scoring::Entries;
using scoring::Problem;

constexpr int kThreads = 256;
constexpr int64_t kMaxSpreadRows = 4;  // blocks of the grid that share the positions

__global__ void __launch_bounds__(kThreads)
    ClearMaximaKernel(const ScoredBlock* blocks, float* maxima) {
  const ScoredBlock block = blocks[blockIdx.x];
  for (int64_t c = threadIdx.x; c < block.queries; c += kThreads) {
    maxima[block.first_query + c] = -std::numeric_limits<float>::infinity();
  }
}

// The largest best of the middle's entries around a position's own; NaN where all are, or outside
// the middle.
__global__ void __launch_bounds__(kThreads)
    SpreadKernel(const __grid_constant__ Problem problem, PrefillScoresOut out) {
  const Entries& keys = problem.keys;
  const int64_t i = int64_t{blockIdx.x} * kThreads + threadIdx.x;
  if (i >= keys.local_end - keys.local_begin) return;
  const uint32_t entry = keys.EntryOf(keys.local_begin + static_cast<uint32_t>(i));
  const int64_t position = keys.Position(keys.At(entry));
  for (int b = blockIdx.y; b < problem.num_blocks; b += gridDim.y) {
    const Range middle = problem.blocks[b].middle;
    float best = __uint_as_float(0x7fffffff);
    if (position >= middle.begin && position < middle.end) {
      const float* const row = problem.best + b * problem.best_stride + entry;
      const int64_t first = max(position - out.proximity, middle.begin) - position;
      const int64_t last = min(position + out.proximity, middle.end - 1) - position;
      if (problem.blocks[b].queries > 0) {
        for (int64_t d = first; d <= last; ++d) best = fmaxf(best, row[d]);
      }
    }
    out.scores[b * out.row_stride + i] = best;
  }
}

DType QueryDType(DType dtype) { return dtype == DType::kFloat8E4M3 ? DType::kBFloat16 : dtype; }

absl::Status CheckArgs(const PrefillScoreArgs& args) {
  if (args.dtype == DType::kFloat16) {
    return absl::InvalidArgumentError("score keys are float32, bfloat16 or fp8_e4m3");
  }
  const int64_t bytes = args.dim * SizeOf(args.dtype);
  if (args.dim < 1 || bytes % kScoreRowAlignment != 0 || args.score_offset < 0 ||
      args.score_offset % 16 != 0 || !IsAligned(args.queries, 16)) {
    return absl::InvalidArgumentError(
        absl::StrCat("score keys of ", args.dim, " numbers, ", args.score_offset,
                     " bytes into a page, or their queries: no multiples of 16 bytes"));
  }
  const ShardGeometry& geometry = args.geometry;
  if (geometry.stripe_tokens < 1 || geometry.rank < 0 || geometry.rank >= geometry.num_ranks ||
      args.halo < 0 || args.hull.begin < 0 || args.hull.empty() || args.num_blocks < 0 ||
      args.max_queries < 0) {
    return absl::InvalidArgumentError(absl::StrCat(
        "no scores of ", args.num_blocks, " blocks of ", args.max_queries, " queries for [",
        args.hull.begin, ", ", args.hull.end, ") with stripes of ", geometry.stripe_tokens,
        ", rank ", geometry.rank, " of ", geometry.num_ranks, ", a halo of ", args.halo));
  }
  const int64_t stripe = geometry.stripe_tokens;
  constexpr int64_t kMaxPosition = std::numeric_limits<uint32_t>::max();
  if (args.hull.end >= kMaxPosition || stripe * geometry.num_ranks > kMaxPosition ||
      stripe + 2 * int64_t{args.halo} > kMaxPosition) {
    return absl::InvalidArgumentError(
        absl::StrCat("positions up to ", args.hull.end, ", or ", stripe, " tokens on each of ",
                     geometry.num_ranks, " ranks, do not fit 32 bits"));
  }
  return absl::OkStatus();
}

int64_t BestStride(int64_t entries) { return (entries + 3) / 4 * 4; }

int TilesOf(int64_t count, int64_t tile) { return static_cast<int>((count + tile - 1) / tile); }

struct KernelShape {
  int threads, shared_bytes;
  int fixed_rows, moving_rows;
  int blocks_per_multiprocessor;
};

template <bool kMaxima>
absl::Status Launch(void (*kernel)(Problem), const KernelShape& shape, int64_t max_queries,
                    Problem problem, Stream stream) {
  // The same for every launch: ranks may be threads of one process.
  LONGSPAN_RETURN_IF_ERROR(ToStatus(
      cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, shape.shared_bytes),
      "shared memory of prefill's scores"));
  int64_t blocks = int64_t{scoring::Multiprocessors()} * shape.blocks_per_multiprocessor;
  int64_t items = 0;
  if (kMaxima) {
    problem.query_tiles = TilesOf(max_queries, shape.fixed_rows);
    problem.key_tiles = TilesOf(problem.keys.count, shape.moving_rows);
    const int64_t groups = int64_t{problem.num_blocks} * problem.query_tiles;
    problem.splits = scoring::SplitsFor(groups, problem.key_tiles, static_cast<int>(blocks));
    items = groups * problem.splits;
  } else {
    problem.key_tiles = TilesOf(problem.keys.count, shape.fixed_rows);
    items = int64_t{problem.key_tiles} * problem.num_blocks;
  }
  blocks = std::min(blocks, items);
  kernel<<<static_cast<unsigned>(blocks), shape.threads, shape.shared_bytes, stream>>>(problem);
  return CheckLaunch(kMaxima ? "PrefillMaxima" : "PrefillScores");
}

// Whether the kernel was compiled for this GPU's own instructions: else it is empty.
absl::StatusOr<bool> HasWarpgroups() {
  cudaFuncAttributes attributes;
  LONGSPAN_RETURN_IF_ERROR(
      ToStatus(cudaFuncGetAttributes(&attributes, scoring::ScoreWarpgroupsKernel<2, true, false>),
               "attributes of prefill's scores"));
  return attributes.sharedSizeBytes > 0;
}

template <typename Products, bool kMaxima, bool kFp8Keys>
absl::Status LaunchTiles(int64_t max_queries, const Problem& problem, Stream stream) {
  constexpr KernelShape kShape = {scoring::kTileThreads, scoring::kTileSharedBytes, scoring::kTile,
                                  scoring::kTile, Products::kBlocksPerMultiprocessor};
  return Launch<kMaxima>(scoring::ScoreTilesKernel<Products, kMaxima, kFp8Keys>, kShape,
                         max_queries, problem, stream);
}

template <int kPanels, bool kMaxima, bool kFp8Keys>
absl::Status LaunchWarpgroups(int64_t max_queries, const Problem& problem, Stream stream) {
  constexpr KernelShape kShape = {scoring::kWarpgroupThreads,
                                  scoring::WarpgroupTiles<kPanels>::kSharedBytes,
                                  scoring::kFixedRows, scoring::kMovingRows, 1};
  return Launch<kMaxima>(scoring::ScoreWarpgroupsKernel<kPanels, kMaxima, kFp8Keys>, kShape,
                         max_queries, problem, stream);
}

// Of rows that are multiplied as bfloat16.
template <bool kMaxima, bool kFp8Keys>
absl::Status MultiplyBFloat16(const PrefillScoreArgs& args, const Problem& problem, Stream stream) {
  const int64_t panels = BlocksOf(problem.row_bytes, scoring::kPanelBytes);
  if (panels <= 2) {
    LONGSPAN_ASSIGN_OR_RETURN(const bool has_warpgroups, HasWarpgroups());
    if (has_warpgroups) {
      return panels == 1
                 ? LaunchWarpgroups<1, kMaxima, kFp8Keys>(args.max_queries, problem, stream)
                 : LaunchWarpgroups<2, kMaxima, kFp8Keys>(args.max_queries, problem, stream);
    }
  }
  return LaunchTiles<scoring::BFloat16Products, kMaxima, kFp8Keys>(args.max_queries, problem,
                                                                   stream);
}

template <bool kMaxima>
absl::Status Multiply(const PrefillScoreArgs& args, const Problem& problem, Stream stream) {
  switch (args.dtype) {
    case DType::kFloat32:
      return LaunchTiles<scoring::FloatProducts, kMaxima, false>(args.max_queries, problem, stream);
    case DType::kFloat8E4M3:
      return MultiplyBFloat16<kMaxima, true>(args, problem, stream);
    default:
      return MultiplyBFloat16<kMaxima, false>(args, problem, stream);
  }
}

}  // namespace

absl::StatusOr<Problem> scoring::MakeProblem(const PrefillScoreArgs& args) {
  LONGSPAN_RETURN_IF_ERROR(CheckArgs(args));
  const ShardGeometry& geometry = args.geometry;
  Problem problem;
  problem.row_bytes = args.dim * SizeOf(QueryDType(args.dtype));
  problem.queries = static_cast<const std::byte*>(args.queries);
  problem.blocks = args.blocks;
  problem.num_blocks = args.num_blocks;
  Entries& keys = problem.keys;
  keys.offset = args.score_offset;
  keys.row_bytes = args.dim * SizeOf(args.dtype);
  keys.stripe = static_cast<uint32_t>(geometry.stripe_tokens);
  keys.halo = static_cast<uint32_t>(args.halo);
  keys.page_rows = keys.stripe + 2 * keys.halo;
  keys.round = keys.stripe * static_cast<uint32_t>(geometry.num_ranks);
  keys.rank_begin = keys.stripe * static_cast<uint32_t>(geometry.rank);
  keys.local_begin = static_cast<uint32_t>(geometry.OwnedBefore(args.hull.begin));
  keys.local_end = static_cast<uint32_t>(geometry.OwnedBefore(args.hull.end));
  if (keys.local_begin == keys.local_end) return problem;
  keys.first_page = keys.local_begin / keys.stripe;
  keys.first_row = keys.local_begin % keys.stripe;
  keys.pages = args.pages + keys.first_page;
  const int64_t own = int64_t{keys.local_end} - keys.local_begin;
  const int64_t pages = int64_t{(keys.local_end - 1) / keys.stripe} - keys.first_page + 1;
  const int64_t count = own + 2 * pages * args.halo;
  if (count + keys.page_rows > kMaxScoreKeys) {
    return absl::InvalidArgumentError(absl::StrCat("cannot score ", count, " keys at once"));
  }
  keys.count = static_cast<uint32_t>(count);
  return problem;
}

absl::StatusOr<Problem> scoring::MakeScoresProblem(const PrefillScoreArgs& args,
                                                   const float* maxima,
                                                   const PrefillScoresOut& out) {
  LONGSPAN_ASSIGN_OR_RETURN(Problem problem, MakeProblem(args));
  const int64_t own = int64_t{problem.keys.local_end} - problem.keys.local_begin;
  if (out.proximity < 0 || out.proximity > args.halo || out.row_stride < own) {
    return absl::InvalidArgumentError(absl::StrCat("no scores spread over ", out.proximity,
                                                   " with a halo of ", args.halo, ", or rows of ",
                                                   out.row_stride, " for ", own, " positions"));
  }
  problem.maxima = const_cast<float*>(maxima);
  problem.best = out.workspace;
  problem.best_stride = BestStride(problem.keys.count);
  return problem;
}

int scoring::Multiprocessors() {
  int device = 0, count = 0;
  cudaGetDevice(&device);
  cudaDeviceGetAttribute(&count, cudaDevAttrMultiProcessorCount, device);
  return std::max(1, count);
}

// An item also costs some tiles' time to begin and end.
int scoring::SplitsFor(int64_t groups, int key_tiles, int blocks) {
  constexpr int64_t kItemTiles = 3;
  constexpr int kMaxSplits = 512;
  int best = 1;
  int64_t best_tiles = std::numeric_limits<int64_t>::max();
  for (int splits = 1; splits <= std::min(key_tiles, kMaxSplits); ++splits) {
    const int64_t rounds = (groups * splits + blocks - 1) / blocks;
    const int64_t tiles = rounds * ((key_tiles + splits - 1) / splits + kItemTiles);
    if (tiles < best_tiles) {
      best = splits;
      best_tiles = tiles;
    }
  }
  return best;
}

absl::Status scoring::Spread(const Problem& problem, const PrefillScoresOut& out, Stream stream) {
  const int64_t own = int64_t{problem.keys.local_end} - problem.keys.local_begin;
  const dim3 grid(BlocksOf(own, kThreads),
                  static_cast<unsigned>(std::min<int64_t>(problem.num_blocks, kMaxSpreadRows)));
  SpreadKernel<<<grid, kThreads, 0, stream>>>(problem, out);
  return CheckLaunch("PrefillScores");
}

absl::Status PrefillMaxima(const PrefillScoreArgs& args, float* maxima, Stream stream) {
  LONGSPAN_ASSIGN_OR_RETURN(Problem problem, scoring::MakeProblem(args));
  if (args.num_blocks == 0 || args.max_queries == 0) return absl::OkStatus();
  ClearMaximaKernel<<<args.num_blocks, kThreads, 0, stream>>>(args.blocks, maxima);
  LONGSPAN_RETURN_IF_ERROR(CheckLaunch("PrefillMaxima"));
  if (problem.keys.count == 0) return absl::OkStatus();
  problem.maxima = maxima;
  return Multiply<true>(args, problem, stream);
}

int64_t PrefillScoresWorkspaceBytes(const ShardGeometry& geometry, int32_t halo, int num_blocks,
                                    int64_t hull_tokens) {
  const int64_t stripe = geometry.stripe_tokens;
  const int64_t round = stripe * geometry.num_ranks;
  const int64_t own = hull_tokens / round * stripe + std::min(stripe, hull_tokens % round);
  const int64_t pages = std::min(own, hull_tokens / round + 2);
  return num_blocks * BestStride(own + 2 * int64_t{halo} * pages) *
         static_cast<int64_t>(sizeof(float));
}

absl::Status PrefillScores(const PrefillScoreArgs& args, const float* maxima,
                           const PrefillScoresOut& out, Stream stream) {
  LONGSPAN_ASSIGN_OR_RETURN(const Problem problem, scoring::MakeScoresProblem(args, maxima, out));
  if (args.num_blocks == 0 || problem.keys.count == 0) return absl::OkStatus();
  if (args.max_queries > 0) LONGSPAN_RETURN_IF_ERROR(Multiply<false>(args, problem, stream));
  return scoring::Spread(problem, out, stream);
}

}  // namespace longspan::cuda
