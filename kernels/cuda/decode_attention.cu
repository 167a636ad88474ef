#include <cuda_runtime.h>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <type_traits>

#include "absl/strings/str_cat.h"
#include "kernels/base/status_macros.h"
#include "kernels/cuda/decode_attention.h"
#include "kernels/cuda/decode_attention_merge.cuh"
#include "kernels/cuda/decode_attention_mma.cuh"
#include "kernels/cuda/decode_attention_share.cuh"
#include "kernels/cuda/decode_attention_simt.cuh"
#include "kernels/cuda/head_dims.h"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/numbers.cuh"

// Checks and launches. Tensor cores are used where they help (decode_attention_mma.cuh), and
// otherwise float32 arithmetic (decode_attention_simt.cuh).
namespace longspan::cuda {
namespace decode {
namespace {

constexpr double kLog2E = 1.4426950408889634;
constexpr int64_t kCounterAlignment = 16;

int64_t PadCounters(int64_t counters) {
  return (counters * 4 + kCounterAlignment - 1) / kCounterAlignment * kCounterAlignment;
}

// Core: SimtTiling or MmaTiling.
template <typename Core>
__global__ void __launch_bounds__(Core::kThreads, Core::kMinBlocks)
    DecodeAttentionKernel(const __grid_constant__ Job job) {
  extern __shared__ __align__(256) std::byte memory[];  // cores rely on it
  __shared__ bool is_last;
  LetSuccessorsStart();
  // A launch behind the selection reads nothing that the selection writes until it takes it.
  if (job.args.selected == nullptr) WaitForPredecessors();
  Core::Attend(job, memory);
  WaitForPredecessors();  // the launch before may still be merging what lies in the workspace

  const int group = job.group();
  const int64_t index = int64_t{blockIdx.z} * gridDim.x + blockIdx.x;  // of the row and KV head
  const int64_t before = index * gridDim.y * group;
  const Partials partials = {job.partials.outputs + before * Core::kDim,
                             job.partials.statistics + before};
  StorePartial<Core>(group, MergeMemory<Core>(memory), partials);

  __syncthreads();
  if (threadIdx.x == 0) {
    auto* counter = static_cast<unsigned*>(job.args.workspace) + index;
    is_last = CountBlock(counter) == gridDim.y - 1;
    if (is_last) *counter = 0;  // for the next launch
  }
  __syncthreads();
  if (!is_last) return;
  MergePartials<Core>(job, blockIdx.z, partials, SplitMemory<Core>(memory));
}

// The same for any number of rows, so that a row's bits do not depend on the others.
int NumSplits(int64_t kv_heads, int multiprocessors) {
  const int64_t blocks = int64_t{kBlocksPerMultiprocessor} * multiprocessors;
  return static_cast<int>(std::clamp<int64_t>(blocks / kv_heads, 1, kMaxSplits));
}

template <typename P>
absl::Status Launch(const DecodeAttentionArgs& args, Stream stream) {
  auto* kernel = DecodeAttentionKernel<P>;
  LONGSPAN_RETURN_IF_ERROR(ToStatus(
      cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, P::kSharedBytes),
      "shared memory of decode attention"));
  const AttentionShape& shape = args.shape;
  const int splits = NumSplits(shape.kv_heads, args.multiprocessors);
  const int64_t partials = int64_t{args.num_rows} * splits * shape.heads;
  Job job;
  job.args = args;
  job.scale = static_cast<float>(shape.score_scale * kLog2E /
                                 std::sqrt(static_cast<double>(shape.head_dim)));
  job.partials.outputs = reinterpret_cast<float*>(static_cast<std::byte*>(args.workspace) +
                                                  PadCounters(args.max_rows * shape.kv_heads));
  job.partials.statistics =
      reinterpret_cast<Statistics*>(job.partials.outputs + partials * shape.head_dim);
  job.stripe_tokens = Divisor(args.geometry.stripe_tokens);
  job.num_ranks = Divisor(args.geometry.num_ranks);
  job.units = Divisor(splits * P::kTeams);
  const dim3 grid(static_cast<unsigned>(shape.kv_heads), splits, args.num_rows);
  // Its blocks may take their places, and attend to near tokens, before the selection is done.
  LaunchAfter(kernel, grid, dim3(P::kThreads), P::kSharedBytes, stream, job);
  return CheckLaunch("decode attention");
}

template <typename T, int kDim>
absl::Status LaunchForGroup(const DecodeAttentionArgs& args, Stream stream) {
  const int64_t group = args.shape.group();
  if constexpr (!std::is_same_v<T, float> && (kDim == 64 || kDim == 128)) {
    if (group <= 4) return Launch<MmaTiling<T, kDim, 1>>(args, stream);
    if (group <= 8) return Launch<MmaTiling<T, kDim, 2>>(args, stream);
  }
  if (group == 1) return Launch<SimtTiling<T, kDim, 1, 1>>(args, stream);
  if (group == 2) return Launch<SimtTiling<T, kDim, 2, 1>>(args, stream);
  if (group <= 4) return Launch<SimtTiling<T, kDim, kMaxThreadHeads, 1>>(args, stream);
  if (group <= 8) return Launch<SimtTiling<T, kDim, kMaxThreadHeads, 2>>(args, stream);
  return Launch<SimtTiling<T, kDim, kMaxThreadHeads, kMaxDecodeGroup / kMaxThreadHeads>>(args,
                                                                                         stream);
}

int64_t WorkspaceBytes(const AttentionShape& shape, int max_rows, int multiprocessors) {
  const int64_t partials =
      int64_t{max_rows} * NumSplits(shape.kv_heads, multiprocessors) * shape.heads;
  return PadCounters(max_rows * shape.kv_heads) +
         partials * (shape.head_dim * static_cast<int64_t>(sizeof(float)) +
                     static_cast<int64_t>(sizeof(Statistics)));
}

// The positions of the RoPE table that are known here: others follow from the rows.
absl::Status CheckRope(const DecodeAttentionArgs& args) {
  constexpr char kName[] = "decode attention";
  if (args.rope.half != args.shape.head_dim / 2) {
    return absl::InvalidArgumentError(absl::StrCat(kName, ": RoPE of ", args.rope.half,
                                                   " pairs for head_dim ", args.shape.head_dim));
  }
  if (args.dense) return CheckPosition(args.rope, 0, kName);
  // Each alone as well, so that their sum does not overflow.
  LONGSPAN_RETURN_IF_ERROR(CheckPosition(args.rope, args.initial_tokens, kName));
  LONGSPAN_RETURN_IF_ERROR(CheckPosition(args.rope, args.local_tokens, kName));
  LONGSPAN_RETURN_IF_ERROR(
      CheckPosition(args.rope, args.initial_tokens + args.local_tokens, kName));
  return args.far_is_apart ? CheckPosition(args.rope, args.far_position, kName) : absl::OkStatus();
}

absl::Status CheckWorkspace(const DecodeAttentionArgs& args) {
  const int64_t bytes = WorkspaceBytes(args.shape, args.max_rows, args.multiprocessors);
  if (args.workspace_bytes >= bytes) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat(
      "decode attention: a workspace of ", args.workspace_bytes, " bytes, but ", args.max_rows,
      " rows on ", args.multiprocessors, " multiprocessors need ", bytes));
}

absl::Status CheckArgs(const DecodeAttentionArgs& args) {
  const AttentionShape& shape = args.shape;
  const ShardGeometry& geometry = args.geometry;
  if (shape.kv_heads < 1 || shape.heads < 1 || shape.heads % shape.kv_heads != 0) {
    return absl::InvalidArgumentError(absl::StrCat(
        "decode attention: ", shape.heads, " heads cannot share ", shape.kv_heads, " KV heads"));
  }
  if (shape.group() > kMaxDecodeGroup) {
    return absl::UnimplementedError(absl::StrCat("decode attention on GPUs supports up to ",
                                                 kMaxDecodeGroup, " heads a KV head, not ",
                                                 shape.group()));
  }
  if (args.key_offset % 16 != 0 || args.value_offset % 16 != 0) {
    return absl::InvalidArgumentError(absl::StrCat("decode attention: keys at ", args.key_offset,
                                                   " and values at ", args.value_offset,
                                                   " bytes of a page, not multiples of 16"));
  }
  if (!IsAligned(args.queries, 16) || !IsAligned(args.output, 16)) {
    return absl::InvalidArgumentError(
        "decode attention: queries and output must be aligned to 16 bytes");
  }
  if (args.output_dtype != DType::kFloat32 && args.output_dtype != DType::kBFloat16) {
    return absl::InvalidArgumentError("decode attention: output must be float32 or bfloat16");
  }
  if (geometry.stripe_tokens < 1 || geometry.rank < 0 || geometry.rank >= geometry.num_ranks) {
    return absl::InvalidArgumentError(absl::StrCat("decode attention: rank ", geometry.rank, " of ",
                                                   geometry.num_ranks, ", stripes of ",
                                                   geometry.stripe_tokens, " tokens"));
  }
  if (args.num_rows < 0 || args.num_rows > args.max_rows || args.num_rows > kMaxDecodeRows ||
      args.multiprocessors < 1 || args.initial_tokens < 0 || args.local_tokens < 0 ||
      args.far_position < 0) {
    return absl::InvalidArgumentError(absl::StrCat(
        "decode attention: ", args.num_rows, " rows of at most ", args.max_rows, ", ",
        args.multiprocessors, " multiprocessors, ", args.initial_tokens, " initial and ",
        args.local_tokens, " local tokens, far position ", args.far_position));
  }
  LONGSPAN_RETURN_IF_ERROR(CheckRope(args));
  return CheckWorkspace(args);
}

}  // namespace
}  // namespace decode

int64_t DecodeAttentionWorkspaceBytes(const AttentionShape& shape, int max_rows,
                                      int multiprocessors) {
  return decode::WorkspaceBytes(shape, max_rows, multiprocessors);
}

absl::Status DecodeAttention(const DecodeAttentionArgs& args, Stream stream) {
  LONGSPAN_RETURN_IF_ERROR(decode::CheckArgs(args));
  if (args.num_rows == 0) return absl::OkStatus();
  return WithCacheType(args.dtype, [&]<typename T>() {
    return WithHeadDim(args.shape.head_dim,
                       [&]<int kDim>() { return decode::LaunchForGroup<T, kDim>(args, stream); });
  });
}

}  // namespace longspan::cuda
