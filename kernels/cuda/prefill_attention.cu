#include <cuda_runtime.h>

#include <cmath>
#include <type_traits>

#include "absl/strings/str_cat.h"
#include "kernels/base/status_macros.h"
#include "kernels/cuda/head_dims.h"
#include "kernels/cuda/numbers.cuh"
#include "kernels/cuda/prefill_attention.h"
#include "kernels/cuda/prefill_attention_keys.cuh"
#include "kernels/cuda/prefill_attention_simple.cuh"
#include "kernels/cuda/prefill_attention_tensor.cuh"

namespace longspan::cuda {
namespace {

constexpr double kLog2E = 1.4426950408889634;

template <typename P>
absl::Status Launch(void (*kernel)(prefill::Task), int shared_bytes,
                    const PrefillAttentionArgs& args, Stream stream) {
  LONGSPAN_RETURN_IF_ERROR(ToStatus(
      cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, shared_bytes),
      "shared memory of prefill attention"));
  const AttentionShape& shape = args.shape;
  prefill::Task task;
  task.args = args;
  task.scale = static_cast<float>(shape.score_scale * kLog2E /
                                  std::sqrt(static_cast<double>(shape.head_dim)));
  task.group = static_cast<int>(shape.group());
  const dim3 grid(BlocksOf(args.max_queries * shape.group(), P::kRows),
                  static_cast<unsigned>(shape.kv_heads), static_cast<unsigned>(args.num_blocks));
  kernel<<<grid, P::kThreads, shared_bytes, stream>>>(task);
  return CheckLaunch("prefill attention");
}

// Some GPUs after sm_80 have less than it has.
absl::StatusOr<bool> HasSharedMemory(int bytes) {
  int device = 0, available = 0;
  LONGSPAN_RETURN_IF_ERROR(ToStatus(cudaGetDevice(&device), "cudaGetDevice"));
  LONGSPAN_RETURN_IF_ERROR(
      ToStatus(cudaDeviceGetAttribute(&available, cudaDevAttrMaxSharedMemoryPerBlockOptin, device),
               "cudaDeviceGetAttribute"));
  return bytes <= available;
}

template <typename T, typename Out, int kDim>
absl::Status LaunchForTypes(const PrefillAttentionArgs& args, Stream stream) {
  if constexpr (!std::is_same_v<T, float> && (kDim == 64 || kDim == 128)) {
    using P = prefill::TensorTiling<T, kDim>;
    constexpr int kBytes = sizeof(prefill::TensorShared<P>);
    LONGSPAN_ASSIGN_OR_RETURN(const bool fits, HasSharedMemory(kBytes));
    if (fits) return Launch<P>(prefill::TensorAttentionKernel<P, Out>, kBytes, args, stream);
  }
  using P = prefill::SimpleTiling<T, kDim>;
  return Launch<P>(prefill::SimpleAttentionKernel<P, Out>, sizeof(prefill::SimpleShared<P>), args,
                   stream);
}

template <typename T, int kDim>
absl::Status LaunchForDim(const PrefillAttentionArgs& args, Stream stream) {
  if (args.output_dtype == DType::kBFloat16) {
    return LaunchForTypes<T, __nv_bfloat16, kDim>(args, stream);
  }
  return LaunchForTypes<T, float, kDim>(args, stream);
}

absl::Status CheckShape(const PrefillAttentionArgs& args) {
  const AttentionShape& shape = args.shape;
  if (shape.kv_heads < 1 || shape.kv_heads > kMaxAttentionBlocks || shape.heads < 1 ||
      shape.heads % shape.kv_heads != 0) {
    return absl::InvalidArgumentError(absl::StrCat(
        "prefill attention: ", shape.heads, " heads cannot share ", shape.kv_heads, " KV heads"));
  }
  if (args.rope.half != shape.head_dim / 2) {
    return absl::InvalidArgumentError(absl::StrCat("prefill attention: RoPE of ", args.rope.half,
                                                   " pairs for head_dim ", shape.head_dim));
  }
  if (args.num_blocks < 0 || args.num_blocks > kMaxAttentionBlocks || args.max_queries < 0 ||
      args.max_queries > kMaxAttentionRows / shape.group() || args.far_position < 0) {
    return absl::InvalidArgumentError(absl::StrCat("prefill attention: ", args.num_blocks,
                                                   " blocks of up to ", args.max_queries,
                                                   " queries, far position ", args.far_position));
  }
  if (args.output_dtype != DType::kFloat32 && args.output_dtype != DType::kBFloat16) {
    return absl::InvalidArgumentError("prefill attention: output must be float32 or bfloat16");
  }
  return absl::OkStatus();
}

absl::Status CheckMemory(const PrefillAttentionArgs& args) {
  const KeyRows& rows = args.rows;
  if (rows.page_rows < 1 || rows.key_offset % 16 != 0 || rows.value_offset % 16 != 0 ||
      rows.row_stride % 16 != 0) {
    return absl::InvalidArgumentError(
        absl::StrCat("prefill attention: pages of ", rows.page_rows, " rows ", rows.row_stride,
                     " bytes apart, keys at ", rows.key_offset, " and values at ",
                     rows.value_offset, " bytes of a page: not multiples of 16"));
  }
  if (args.queries == nullptr || args.output == nullptr || args.blocks == nullptr) {
    return absl::InvalidArgumentError("prefill attention: no queries, output or blocks");
  }
  if (!IsAligned(args.queries, 16) || !IsAligned(args.output, 16) ||
      !IsAligned(args.rope.fine, 16) || !IsAligned(args.rope.coarse, 16)) {
    return absl::InvalidArgumentError(
        "prefill attention: queries, output and RoPE must be aligned to 16 bytes");
  }
  return absl::OkStatus();
}

}  // namespace

absl::Status PrefillAttention(const PrefillAttentionArgs& args, Stream stream) {
  LONGSPAN_RETURN_IF_ERROR(CheckShape(args));
  if (args.num_blocks == 0 || args.max_queries == 0) return absl::OkStatus();
  LONGSPAN_RETURN_IF_ERROR(CheckMemory(args));
  return WithCacheType(args.dtype, [&]<typename T>() {
    return WithHeadDim(args.shape.head_dim,
                       [&]<int kDim>() { return LaunchForDim<T, kDim>(args, stream); });
  });
}

}  // namespace longspan::cuda
