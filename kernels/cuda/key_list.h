#ifndef LONGSPAN_KERNELS_CUDA_KEY_LIST_H_
#define LONGSPAN_KERNELS_CUDA_KEY_LIST_H_

#include <cstdint>

#include "absl/status/status.h"
#include "kernels/cuda/device.h"
#include "kernels/cuda/prefill_attention.h"
#include "kernels/cuda/prefill_score.h"
#include "kernels/cuda/shard_view.h"
#include "sharding/sequence_layout.h"
#include "sharding/topk_merge.h"

// From what was selected to what attention reads, without the host.
namespace longspan::cuda {

// Top-k of a rank's own scores count in local indices from that of `hull_begin`: they become
// positions. Those behind a block's middle are dropped, which leaves zeros. In place.
struct LocateCandidatesArgs {
  ShardGeometry geometry;
  const ScoredBlock* blocks = nullptr;  // device [num_blocks]
  int num_blocks = 0;
  int64_t hull_begin = 0;
  int64_t top_k = 0;
  Candidate* candidates = nullptr;  // device [num_blocks, top_k], ascending by position
  int32_t* counts = nullptr;        // device [num_blocks]
};
absl::Status LocateCandidates(const LocateCandidatesArgs& args, Stream stream);

// What a block reads beside what it selected, and where that stands. Lives in device memory.
struct KeyRanges {
  Range initial;
  Range near;
  int64_t selection = 0;  // row of the selections
};

// Fills the lists of PrefillAttentionArgs: a block's initial and selected positions, then the near
// ones. Its far_keys and near_keys say how many there are.
struct ListKeysArgs {
  const AttentionBlock* blocks = nullptr;  // device [num_blocks]
  const KeyRanges* ranges = nullptr;       // device [num_blocks]
  int num_blocks = 0;
  const Candidate* selected = nullptr;  // device [rows, selected_stride]; null: none
  int64_t selected_stride = 0;
  const uint32_t* row_of = nullptr;   // device [positions] a position's row; null: it is the row
  uint32_t* key_rows = nullptr;       // device
  uint32_t* key_positions = nullptr;  // device
};
absl::Status ListKeys(const ListKeysArgs& args, Stream stream);

}  // namespace longspan::cuda

#endif  // LONGSPAN_KERNELS_CUDA_KEY_LIST_H_
