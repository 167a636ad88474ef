#ifndef LONGSPAN_KERNELS_CUDA_DECODE_ATTENTION_H_
#define LONGSPAN_KERNELS_CUDA_DECODE_ATTENTION_H_

#include <cstdint>

#include "absl/status/status.h"
#include "kernels/attention.h"
#include "kernels/base/dtype.h"
#include "kernels/cuda/device.h"
#include "kernels/cuda/rope.h"
#include "kernels/cuda/shard_view.h"

// Attention of the newest token of each of several sequences to the keys that this rank keeps.
namespace longspan::cuda {

inline constexpr int kMaxDecodeGroup = 16;    // heads of a KV head
inline constexpr int kMaxDecodeRows = 65535;  // of a launch: gridDim.z

// All pointers are to device memory. What a row reads follows from its position p as in
// sharding/attention_ranges.h: if `dense`, or if lo = max(0, p - local_tokens) <= initial_tokens,
// the keys at [0, p]; otherwise the near ones at [lo, p], and as far ones those at
// [0, initial_tokens) and the selected. Of all these, the ones that this rank owns. Positions are
// below 2^32 - 1; a row at -1 reads nothing. The pages of what is read must exist, no others.
struct DecodeAttentionArgs {
  AttentionShape shape;
  DType dtype = DType::kBFloat16;  // of cached keys and values: float32, bfloat16, fp8_e4m3
  ShardGeometry geometry;
  // Bytes from a page's begin to the layer's first key, or value, row: multiples of 16, as pages
  // are aligned. A stripe's rows [kv_heads, head_dim] follow one another; keys are before RoPE.
  int64_t key_offset = 0;
  int64_t value_offset = 0;

  const DecodeRow* rows = nullptr;  // [num_rows]
  int num_rows = 0;
  const float* queries = nullptr;  // [num_rows, heads, head_dim], before RoPE, aligned to 16 bytes

  int64_t initial_tokens = 0;
  int64_t local_tokens = 0;
  bool dense = false;
  // Far keys stay unrotated and meet the query rotated to far_position; otherwise all are at true
  // positions.
  bool far_is_apart = false;
  int64_t far_position = 0;

  // Candidates (sharding/topk_merge.h), of which only the position counts: [num_rows,
  // selected_stride], the first selected_counts[row] of a row valid and ascending by position.
  // Those of other ranks are passed over. Null: nothing is selected. If given, the launch just
  // before this one in the stream may write the selection, and nothing else that is read here: near
  // tokens are attended to meanwhile. It must not let this one start (launch.cuh) before all that
  // was earlier has ended: DecodeSelect's and MergeCandidates' do not.
  const uint64_t* selected = nullptr;
  int64_t selected_stride = 0;
  const int32_t* selected_counts = nullptr;

  // Keys are turned by their distance from the query: up to far_position (if far_is_apart) and
  // initial_tokens + local_tokens, which is checked, or up to the row's position if `dense` or not
  // far_is_apart, which is not.
  RopeTable rope;

  // DecodeAttentionWorkspaceBytes for max_rows, zeroed before the first call; every call leaves it
  // fit for the next one of the same shape, whatever its num_rows. Not for two calls at once.
  void* workspace = nullptr;
  int64_t workspace_bytes = 0;  // what there is
  int max_rows = 0;
  int multiprocessors = 0;  // of the device (DeviceInfo)

  // [num_rows, heads, head_dim] of `output_dtype`, aligned to 16 bytes. Partials that are merged
  // with others are float32; bfloat16 is for what products read.
  void* output = nullptr;
  DType output_dtype = DType::kFloat32;
  float* lse = nullptr;  // [num_rows, heads], natural log
};

int64_t DecodeAttentionWorkspaceBytes(const AttentionShape& shape, int max_rows,
                                      int multiprocessors);

// One softmax over a row's far and near keys, scores scaled by score_scale/sqrt(head_dim), in
// float32, and one rounding of the output; but of 8- and 16-bit caches, on tensor cores, keys that
// are turned are rounded to tf32, 8 times as fine as bfloat16. A row without a key on this rank
// gets 0 and -inf. One launch, which reads nothing that depends on the rows from the host: a graph
// with it may be replayed after rows, counts and page tables have changed in place. A row's bits
// depend on the row alone, and are the same every time. Unimplemented: a head_dim that is not one
// of kHeadDims, or more than kMaxDecodeGroup heads a KV head. InvalidArgument: sizes that fit no
// cache, a RoPE table without a position that all rows may need, a workspace that is too small for
// max_rows and multiprocessors, another output_dtype.
absl::Status DecodeAttention(const DecodeAttentionArgs& args, Stream stream);

}  // namespace longspan::cuda

#endif  // LONGSPAN_KERNELS_CUDA_DECODE_ATTENTION_H_
