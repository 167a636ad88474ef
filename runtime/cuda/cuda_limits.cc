#include "runtime/cuda/cuda_limits.h"

#include <algorithm>
#include <cstdint>
#include <string>

#include "absl/strings/str_cat.h"
#include "kernels/base/status_macros.h"
#include "kernels/cuda/decode_attention.h"
#include "kernels/cuda/head_dims.h"
#include "kernels/cuda/merge.h"
#include "kernels/cuda/prefill_attention.h"
#include "kernels/cuda/select.h"
#include "kernels/cuda/shard_view.h"
#include "kernels/cuda/vote_score.h"
#include "sharding/merge_choice.h"
#include "sharding/topk_merge.h"

namespace longspan {
namespace {

absl::Status CheckModel(const Config& config, const AttentionShape& shape) {
  const absl::Status head_dim =
      cuda::WithHeadDim(shape.head_dim, []<int kDim>() { return absl::OkStatus(); });
  if (!head_dim.ok()) {
    return absl::UnimplementedError(absl::StrCat(head_dim.message(), ": use `device: cpu`"));
  }
  // Deterministic runs decode as they prefill.
  if (shape.group() > cuda::kMaxDecodeGroup && !config.deterministic) {
    return absl::UnimplementedError(absl::StrCat(
        "decoding on GPUs supports up to ", cuda::kMaxDecodeGroup, " heads a KV head, not ",
        shape.group(), ": use `deterministic: true`, or `device: cpu`"));
  }
  return absl::OkStatus();
}

absl::Status CheckBatch(const Config& config, const CudaSizes& sizes) {
  if (sizes.own_blocks > cuda::kMaxAttentionBlocks) {
    return absl::InvalidArgumentError(absl::StrCat(
        "`prefill.chunk_tokens` (", config.prefill_chunk_tokens, ") is more than ",
        cuda::kMaxAttentionBlocks, " blocks of `esa.selection_block` (", config.esa.selection_block,
        ") tokens for a GPU: lower the one or raise the other"));
  }
  const int64_t most_queries = cuda::kMaxAttentionRows / sizes.shape.group();
  if (config.esa.selection_block > most_queries) {
    return absl::InvalidArgumentError(absl::StrCat("`esa.selection_block` (",
                                                   config.esa.selection_block, ") must be at most ",
                                                   most_queries, " on GPUs"));
  }
  if (sizes.sequences > cuda::kMaxDecodeRows && !config.deterministic) {
    return absl::InvalidArgumentError(absl::StrCat("`max_num_seqs` (", sizes.sequences,
                                                   ") must be at most ", cuda::kMaxDecodeRows,
                                                   " on GPUs"));
  }
  return absl::OkStatus();
}

// Kernels number a round of stripes in 32 bits, and some pages' score keys in 31.
absl::Status CheckStripes(const CudaSizes& sizes) {
  const int64_t most = std::min(cuda::kMaxScoreKeys / 4, kMaxPosition / sizes.ranks);
  if (sizes.kv.stripe_tokens <= most) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat("`parallel.stripe_tokens` (",
                                                 sizes.kv.stripe_tokens, ") must be at most ", most,
                                                 " on GPUs"));
}

absl::Status CheckScoreKeys(const Config& config, const CudaSizes& sizes) {
  const int64_t bytes = sizes.kv.score_row_bytes();
  if (bytes % cuda::kScoreRowAlignment != 0) {
    const int64_t numbers = cuda::kScoreRowAlignment / SizeOf(sizes.kv.score_dtype);
    return absl::InvalidArgumentError(absl::StrCat(
        "compressed keys of ", bytes, " bytes (`esa.compressed_dim` ", sizes.kv.score_dim, ", ",
        std::string(DTypeName(sizes.kv.score_dtype)), ") are no multiples of ",
        cuda::kScoreRowAlignment, " bytes, as GPUs need them: use an `esa.compressed_dim` that is ",
        "a multiple of ", numbers));
  }
  const int64_t slice_bytes = sizes.voters.dim * SizeOf(sizes.kv.score_dtype);
  if (slice_bytes % cuda::kScoreRowAlignment != 0) {
    return absl::InvalidArgumentError(absl::StrCat(
        "`esa.score: ", ConfigValue(config, "esa.score"), "` reads ", sizes.voters.dim,
        " numbers of a key for each vote, ", slice_bytes, " bytes (`esa.compressed_dim` ",
        sizes.kv.score_dim, ", `esa.score_groups` ", config.esa.score_groups, ", ",
        std::string(DTypeName(sizes.kv.score_dtype)), "), and GPUs need multiples of ",
        cuda::kScoreRowAlignment, " bytes: lower `esa.score_groups`"));
  }
  const int64_t page_keys = sizes.kv.stripe_tokens + 2 * sizes.kv.halo;
  if (sizes.own_keys + page_keys > cuda::kMaxScoreKeys) {
    return absl::InvalidArgumentError(
        absl::StrCat("`max_model_len` (", config.max_model_len, ") gives a rank ", sizes.own_keys,
                     " keys to select from, but GPUs select from at most ",
                     cuda::kMaxScoreKeys - page_keys, ": lower it, or use more ranks"));
  }
  return absl::OkStatus();
}

absl::Status CheckVoters(const Config& config, const CudaSizes& sizes) {
  if (sizes.voters.count <= cuda::kMaxVoters) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat("`esa.score: ", ConfigValue(config, "esa.score"), "` has ", sizes.voters.count,
                   " voters, but GPUs count the votes of at most ", cuda::kMaxVoters));
}

absl::Status CheckSelection(const Config& config, const CudaSizes& sizes,
                            const cuda::DeviceInfo& info) {
  const int64_t most = sizes.ranks > 1 ? cuda::MaxMergedTopK(sizes.ranks) : cuda::kMaxSelected;
  if (sizes.top_k > most) {
    return absl::InvalidArgumentError(
        absl::StrCat("`esa.top_k` (", sizes.top_k, ") must be at most ", most, " on GPUs"));
  }
  static_assert(kMostGatheringGpus == cuda::kMaxMergedRanks);
  if (sizes.ranks > kMostGatheringGpus && sizes.merge == MergeWay::kAllGather) {
    return absl::InvalidArgumentError(
        absl::StrCat("`parallel.selection_merge: all_gather` is for at most ", kMostGatheringGpus,
                     " GPUs, not ", sizes.ranks, ": use auto or histogram"));
  }
  LONGSPAN_RETURN_IF_ERROR(CheckScoreKeys(config, sizes));
  if (sizes.votes) return CheckVoters(config, sizes);  // which read keys from where they are
  const int64_t needed = cuda::DecodeSelectSharedBytes(sizes.kv.score_dim, config.esa.proximity);
  const int64_t available = cuda::SelectSharedBytes(info.shared_memory_per_block);
  if (needed <= available) return absl::OkStatus();
  return absl::UnimplementedError(absl::StrCat(
      "`esa.proximity` (", config.esa.proximity, ") with score keys of ", sizes.kv.score_dim,
      " numbers needs ", needed, " bytes of shared memory, and ", info.name, " has ", available,
      " for it: lower esa.proximity, or use `device: cpu`"));
}

}  // namespace

absl::Status CheckCudaLimits(const Config& config, const CudaSizes& sizes,
                             const cuda::DeviceInfo& info) {
  LONGSPAN_RETURN_IF_ERROR(CheckModel(config, sizes.shape));
  LONGSPAN_RETURN_IF_ERROR(CheckBatch(config, sizes));
  LONGSPAN_RETURN_IF_ERROR(CheckStripes(sizes));
  return sizes.top_k > 0 ? CheckSelection(config, sizes, info) : absl::OkStatus();
}

}  // namespace longspan
