#include <cuda_runtime.h>

#include <algorithm>
#include <bit>
#include <limits>

#include "absl/strings/str_cat.h"
#include "kernels/base/status_macros.h"
#include "kernels/cuda/decode_score.cuh"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/numbers.cuh"
#include "kernels/cuda/select.h"
#include "kernels/cuda/select_decoded.cuh"
#include "kernels/cuda/select_given.cuh"

namespace longspan::cuda {
namespace {

using namespace selection;  // NOLINT(build/namespaces): these headers are parts of this file

// ---- Workspace ----

int Attribute(cudaDeviceAttr attribute) {
  int device = 0, value = 0;
  cudaGetDevice(&device);
  cudaDeviceGetAttribute(&value, attribute, device);
  return value;
}

int DeviceBlocks(int max_blocks) {
  const int multiprocessors = std::max(1, Attribute(cudaDevAttrMultiProcessorCount));
  return max_blocks > 0 ? std::min(max_blocks, multiprocessors) : multiprocessors;
}

int64_t CountBytes(int blocks) { return (int64_t{blocks} * 8 + 127) / 128 * 128; }

// Each block should have some work for every thread.
Teams TeamsFor(int rows, int64_t keys, int blocks) {
  Teams teams;
  teams.size = static_cast<int>(
      std::clamp<int64_t>(keys / (2 * kThreads), 1, std::clamp(blocks / rows, 1, int{kMaxTeam})));
  teams.count = std::min(rows, blocks / teams.size);
  return teams;
}

// In pieces of 16 bytes.
int64_t SliceOf(int64_t keys, int team_size) {
  return ((keys + team_size - 1) / team_size + 3) / 4 * 4;
}

int64_t StateBytes(int rows, int blocks) {
  return int64_t{std::min(rows, blocks)} * static_cast<int64_t>(sizeof(TeamState));
}

// Words of a block's list of the short way, at least all of a few entries'.
int ListWords(int team_size) {
  const int entries = std::max(512, (kListed + team_size - 1) / team_size);
  return (entries / kPieceWords + 1) * kPieceWords;
}

int64_t ListBytes(int team_count, int team_size) {
  return int64_t{2} * team_count * team_size * ListWords(team_size) * 8;
}

int64_t MaxListBytes(int rows, int blocks) {
  int64_t bytes = 0;
  for (int size = 1; size <= std::min(blocks, kMaxTeam); ++size) {
    bytes = std::max(bytes, ListBytes(std::min(rows, blocks / size), size));
  }
  return bytes;
}

// A query, and two pieces of scores with what proximity looks at beside them.
int64_t DecodeScratch(int64_t dim, int64_t proximity) { return dim + 2 * (kPiece + 2 * proximity); }

// ---- Launches ----

absl::StatusOr<Problem> MakeProblem(int rows, int64_t max_keys, int64_t top_k, int listed,
                                    const Selected& selected, const SelectWorkspace& workspace) {
  if (top_k < 1 || top_k > kMaxSelected) {
    return absl::InvalidArgumentError(absl::StrCat("cannot select the first ", top_k));
  }
  if (rows > workspace.rows() || max_keys > workspace.max_keys()) {
    return absl::InternalError("the workspace of a selection is too small");
  }
  Problem problem;
  problem.teams = TeamsFor(rows, max_keys, workspace.blocks());
  problem.states = reinterpret_cast<TeamState*>(workspace.data());
  std::byte* rest = workspace.data() + StateBytes(workspace.rows(), workspace.blocks());
  problem.counts = reinterpret_cast<unsigned long long*>(rest);
  rest += CountBytes(workspace.blocks());
  problem.lists = reinterpret_cast<unsigned long long*>(rest);
  rest += MaxListBytes(workspace.rows(), workspace.blocks());
  problem.bits = reinterpret_cast<uint32_t*>(rest);
  problem.rows = rows;
  problem.top_k = top_k;
  problem.selected = selected;
  problem.slice = SliceOf(max_keys, problem.teams.size);
  // Entries fit 32 bits, and a thread steps over the end of a slice by at most 16 times a block.
  static_assert(kMaxScoreKeys <= std::numeric_limits<int32_t>::max() - 16 * kThreads);
  if (max_keys > 0xffffffff || problem.slice > kMaxScoreKeys) {
    return absl::InvalidArgumentError(absl::StrCat("cannot select among ", max_keys, " scores"));
  }
  problem.listed = listed;
  problem.scratch_floats = int64_t{2} * listed;
  problem.list_words = ListWords(problem.teams.size);
  const int64_t preloaded =
      std::min<int64_t>(problem.scratch_floats / (problem.teams.size + kShare), problem.list_words);
  problem.preload_shift = std::bit_width(static_cast<uint64_t>(preloaded)) - 1;
  return problem;
}

// The same for every launch of a kernel: ranks may be threads of one process.
template <typename Kernel>
absl::Status AllowSharedBytes(Kernel* kernel, const SelectWorkspace& workspace) {
  return ToStatus(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                       static_cast<int>(workspace.shared_bytes())),
                  "shared memory of the selection");
}

absl::Status CheckArgs(const DecodeSelectArgs& args) {
  const int64_t bytes = args.dim * SizeOf(args.dtype);
  if (args.dim < 1 || bytes % kScoreRowAlignment != 0 || args.score_offset % 16 != 0) {
    return absl::InvalidArgumentError(absl::StrCat("score keys of ", args.dim, " numbers, ",
                                                   args.score_offset,
                                                   " bytes into a page: no multiples of 16 bytes"));
  }
  const ShardGeometry& geometry = args.geometry;
  if (geometry.stripe_tokens < 1 || geometry.rank < 0 || geometry.rank >= geometry.num_ranks ||
      args.proximity < 0 || args.proximity > args.halo || args.initial_tokens < 0 ||
      args.local_tokens < 0 || args.max_tokens < 0) {
    return absl::InvalidArgumentError(
        absl::StrCat("no selection with stripes of ", geometry.stripe_tokens, ", rank ",
                     geometry.rank, " of ", geometry.num_ranks, ", proximity ", args.proximity,
                     ", a halo of ", args.halo, ", ", args.initial_tokens, " initial and ",
                     args.local_tokens, " local of ", args.max_tokens, " tokens"));
  }
  return absl::OkStatus();
}

// Lanes that share a score key: one 16-byte load each, as far as a warp goes.
template <typename T>
absl::Status LaunchScores(const DecodeSelectArgs& args, const Problem& problem,
                          const SelectWorkspace& workspace, Stream stream) {
  const int64_t loads = args.dim * static_cast<int64_t>(sizeof(T)) / 16;
  const auto launch = [&]<int kLanes, bool kWhole>() {
    const auto kernel = DecodeScoreKernel<T, kLanes, kWhole>;
    LONGSPAN_RETURN_IF_ERROR(AllowSharedBytes(kernel, workspace));
    LaunchAfter(kernel, dim3(problem.teams.count * problem.teams.size), dim3(kScoreThreads),
                DecodeSelectSharedBytes(args.dim, args.proximity), stream,
                ScoredKeys<T, kLanes, kWhole>{args}, problem);
    return CheckLaunch("scores");
  };
  if (loads == 16) return launch.template operator()<16, true>();
  if (loads == 8) return launch.template operator()<8, true>();
  if (loads >= 32) return launch.template operator()<32, false>();
  if (loads >= 16) return launch.template operator()<16, false>();
  if (loads >= 8) return launch.template operator()<8, false>();
  if (loads >= 4) return launch.template operator()<4, false>();
  return launch.template operator()<2, false>();
}

// Of up to as many rows as there are blocks.
absl::Status SelectRows(const DecodeSelectArgs& args, const SelectWorkspace& workspace,
                        Stream stream) {
  // A longer list would take the shared memory of what runs beside the selection.
  const auto listed = static_cast<int>(std::min<int64_t>(kListed, 3 * args.top_k + 768));
  LONGSPAN_ASSIGN_OR_RETURN(
      const Problem problem,
      MakeProblem(args.rows, MaxKeys(args.max_tokens, args.geometry, args.halo), args.top_k,
                  listed / kPieceWords * kPieceWords, args.selected, workspace));
  LONGSPAN_RETURN_IF_ERROR(WithCacheType(
      args.dtype, [&]<typename T>() { return LaunchScores<T>(args, problem, workspace, stream); }));
  const auto kernel = SelectDecodedKernel;
  LONGSPAN_RETURN_IF_ERROR(AllowSharedBytes(kernel, workspace));
  LaunchTogetherAfter(kernel, dim3(problem.teams.count * problem.teams.size), dim3(kThreads),
                      problem.scratch_floats * 4, stream, args, problem);
  return CheckLaunch("selection");
}

}  // namespace

int64_t MaxKeys(int64_t max_tokens, const ShardGeometry& geometry, int32_t halo) {
  const int64_t stripe = geometry.stripe_tokens;
  return (max_tokens + stripe - 1) / stripe * (stripe + 2 * halo);
}

int64_t SelectSharedBytes(int64_t shared_memory_per_block) {
  return shared_memory_per_block - static_cast<int64_t>(sizeof(GivenMemory)) - 1024;
}

int64_t DecodeSelectSharedBytes(int64_t dim, int64_t proximity) {
  return DecodeScratch(dim, proximity) * 4;
}

// For any number of rows up to `rows`, and for fewer keys, whose smaller teams round up more.
int64_t SelectWorkspace::Bytes(int rows, int64_t max_keys, int max_blocks) {
  const int blocks = DeviceBlocks(max_blocks);
  const int64_t bits = std::min(rows, blocks) * (max_keys + 4 * std::min(blocks, kMaxTeam));
  return StateBytes(rows, blocks) + CountBytes(blocks) + MaxListBytes(rows, blocks) + bits * 4;
}

absl::StatusOr<SelectWorkspace> SelectWorkspace::Create(int rows, int64_t max_keys,
                                                        int max_blocks) {
  SelectWorkspace workspace;
  workspace.rows_ = rows;
  workspace.max_keys_ = max_keys;
  workspace.blocks_ = DeviceBlocks(max_blocks);
  workspace.shared_bytes_ = SelectSharedBytes(Attribute(cudaDevAttrMaxSharedMemoryPerBlockOptin));
  const int64_t bytes = Bytes(rows, max_keys, max_blocks);
  LONGSPAN_ASSIGN_OR_RETURN(workspace.buffer_, Buffer::Allocate(bytes));
  LONGSPAN_RETURN_IF_ERROR(Fill(workspace.data(), 0, bytes, nullptr));
  LONGSPAN_RETURN_IF_ERROR(Synchronize(nullptr));
  return workspace;
}

absl::Status TopK(const TopKArgs& args, const SelectWorkspace& workspace, Stream stream) {
  if (args.rows == 0) return absl::OkStatus();
  LONGSPAN_ASSIGN_OR_RETURN(Problem problem, MakeProblem(args.rows, args.count, args.top_k, kListed,
                                                         args.selected, workspace));
  // The short way marks entries in the scratch memory.
  if (problem.slice > 32 * problem.scratch_floats) problem.list_words = 0;
  int64_t bytes = problem.scratch_floats * 4;
  if (bytes + problem.slice * 4 <= workspace.shared_bytes()) {
    bytes += problem.slice * 4;
    problem.bits = nullptr;
  }
  const auto kernel = SelectGivenKernel;
  LONGSPAN_RETURN_IF_ERROR(AllowSharedBytes(kernel, workspace));
  GivenScores source = {args.scores, args.row_stride, args.count};
  void* parameters[] = {&source, &problem};
  return ToStatus(
      cudaLaunchCooperativeKernel(reinterpret_cast<const void*>(kernel),
                                  dim3(problem.teams.count * problem.teams.size), dim3(kThreads),
                                  parameters, static_cast<size_t>(bytes), stream),
      "selection");
}

absl::Status DecodeSelect(const DecodeSelectArgs& args, const SelectWorkspace& workspace,
                          Stream stream) {
  LONGSPAN_RETURN_IF_ERROR(CheckArgs(args));
  const int64_t bytes = DecodeSelectSharedBytes(args.dim, args.proximity);
  if (bytes > workspace.shared_bytes()) {
    return absl::UnimplementedError(absl::StrCat(
        "a selection with these settings needs ", bytes, " bytes of shared memory, more than ",
        workspace.shared_bytes(), ": lower esa.proximity"));
  }
  // A launch of each kernel has a team for every row.
  for (int first = 0; first < args.rows; first += workspace.blocks()) {
    DecodeSelectArgs part = args;
    part.rows = std::min(args.rows - first, workspace.blocks());
    part.sequences += first;
    part.queries += first * args.dim;
    part.selected.candidates += first * args.top_k;
    part.selected.counts += first;
    LONGSPAN_RETURN_IF_ERROR(SelectRows(part, workspace, stream));
  }
  return absl::OkStatus();
}

}  // namespace longspan::cuda
