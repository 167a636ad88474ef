#ifndef LONGSPAN_KERNELS_CUDA_PREFILL_ATTENTION_H_
#define LONGSPAN_KERNELS_CUDA_PREFILL_ATTENTION_H_

#include <cstddef>
#include <cstdint>

#include "absl/status/status.h"
#include "kernels/attention.h"
#include "kernels/base/dtype.h"
#include "kernels/cuda/device.h"
#include "kernels/cuda/rope.h"

// Attention of the selection blocks of a prefill chunk to keys that lie scattered over pages, or
// over a message of another rank.
namespace longspan::cuda {

// Of a launch: blocks, and KV heads (gridDim.z and y), and rows of a block, its queries times the
// heads of a KV head.
inline constexpr int64_t kMaxAttentionBlocks = 65535;
inline constexpr int64_t kMaxAttentionRows = int64_t{1} << 30;

// Where rows of keys and values lie. Row i is at pages[i / page_rows] + key_offset (value_offset) +
// i % page_rows * row_stride; all of these are multiples of 16 bytes.
struct KeyRows {
  const std::byte* const* pages = nullptr;  // device
  int64_t page_rows = 1;
  int64_t key_offset = 0;
  int64_t value_offset = 0;
  int64_t row_stride = 0;
};

// One selection block and the keys that it attends to. Lives in device memory.
struct AttentionBlock {
  int64_t first_row = 0;       // of its queries, output and lse
  int64_t queries = 0;         // tokens; may be zero
  int64_t first_position = 0;  // of the first query; the others follow
  int64_t first_key = 0;       // index of its list in PrefillAttentionArgs::key_rows
  int64_t far_keys = 0;        // of the list, the first so many are far ones,
  int64_t near_keys = 0;       // and as many near ones follow, ascending by position
};

struct PrefillAttentionArgs {
  AttentionShape shape;
  DType dtype = DType::kBFloat16;  // of cached keys and values: float32, bfloat16, fp8_e4m3
  KeyRows rows;
  const AttentionBlock* blocks = nullptr;  // device [num_blocks]
  int num_blocks = 0;
  int64_t max_queries = 0;                  // of any block
  const uint32_t* key_rows = nullptr;       // device: each block's list of rows
  const uint32_t* key_positions = nullptr;  // device: the position of each

  // Device [rows, heads, head_dim] float32, before RoPE, aligned to 16 bytes.
  const float* queries = nullptr;
  // Far keys stay unrotated and meet the query rotated to far_position; otherwise all keys are at
  // their true positions, and far ones are only those that come first.
  bool far_is_apart = false;
  int64_t far_position = 0;
  RopeTable rope;

  // Device [rows, heads, head_dim] of `output_dtype` (float32 or bfloat16), and [rows, heads],
  // natural log, or null.
  void* output = nullptr;
  DType output_dtype = DType::kFloat32;
  float* lse = nullptr;
};

// One softmax over a block's far and near keys, scores scaled by score_scale/sqrt(head_dim). Near
// keys behind a query's position are masked; far keys never are. A query without a key gets 0 and
// -inf. Rows of no block stay as they are. The bits of a query depend on it and its list of keys
// alone.
// Unimplemented: a head_dim that is not one of kHeadDims.
absl::Status PrefillAttention(const PrefillAttentionArgs& args, Stream stream);

}  // namespace longspan::cuda

#endif  // LONGSPAN_KERNELS_CUDA_PREFILL_ATTENTION_H_
