#ifndef LONGSPAN_KERNELS_CUDA_SPLIT_HEADS_H_
#define LONGSPAN_KERNELS_CUDA_SPLIT_HEADS_H_

#include <cstdint>

#include "absl/status/status.h"
#include "kernels/attention.h"
#include "kernels/cuda/device.h"

namespace longspan::cuda {

// The product of the stacked query, key and value weights becomes queries, keys and values, with
// their biases and, of queries and keys, the RMS norm of each head. Device memory.
struct SplitHeadsArgs {
  AttentionShape shape;
  // [rows, heads*head_dim + 2*kv_heads*head_dim], or without the queries where there are none.
  const float* stacked = nullptr;
  int64_t rows = 0;
  const float* bias = nullptr;        // [width of `stacked`], or null
  const float* query_norm = nullptr;  // [head_dim], or null
  const float* key_norm = nullptr;    // [head_dim], or null
  float epsilon = 0;
  float* queries = nullptr;  // [rows, heads, head_dim]; null: `stacked` has none
  float* keys = nullptr;     // [rows, kv_heads, head_dim]
  float* values = nullptr;   // [rows, kv_heads, head_dim]
};
absl::Status SplitHeads(const SplitHeadsArgs& args, Stream stream);

}  // namespace longspan::cuda

#endif  // LONGSPAN_KERNELS_CUDA_SPLIT_HEADS_H_
