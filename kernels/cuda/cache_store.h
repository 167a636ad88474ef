#ifndef LONGSPAN_KERNELS_CUDA_CACHE_STORE_H_
#define LONGSPAN_KERNELS_CUDA_CACHE_STORE_H_

#include <cstddef>
#include <cstdint>

#include "absl/status/status.h"
#include "kernels/attention.h"
#include "kernels/base/dtype.h"
#include "kernels/cuda/device.h"
#include "kernels/cuda/shard_view.h"

// Rows of new keys, values and score keys go to their places in the cache; queries and keys become
// what the score reads.
namespace longspan::cuda {

// One layer of a rank's cache: bytes from a page's begin to the first row of each kind. Pages are
// aligned to 16 bytes. Where rows are too, they move 16 bytes at a time, else number by number.
struct CacheLayer {
  ShardGeometry geometry;
  DType dtype = DType::kBFloat16;        // of keys and values: float32, bfloat16 or fp8_e4m3
  DType score_dtype = DType::kBFloat16;  // of score keys: `dtype`, always if they are the keys, or
                                         // fp8_e4m3
  int64_t kv_dim = 0;
  int64_t key_offset = 0;    // [stripe, kv_dim]
  int64_t value_offset = 0;  // [stripe, kv_dim]
  int64_t score_dim = 0;     // 0: nothing is scored
  int64_t score_offset = 0;  // [halo + stripe + halo, score_dim]; with exact scores halo rows
                             // before key_offset, for they are the keys
  int32_t halo = 0;
};

// Keys and values of consecutive positions of one stripe, in prefill. Score keys also go to those
// of the sequence's other pages here whose halo holds the position; other ranks' halos are
// exchanged (CopyScoreRows).
struct StoredRun {
  int64_t first_row = 0;
  int64_t count = 0;
  int64_t first_position = 0;
};
struct StoreRunsArgs {
  CacheLayer layer;
  std::byte* const* pages = nullptr;  // device: this rank's pages of the sequence
  // Where score keys that are not the keys lie in memory of their own; null: in `pages`.
  std::byte* const* score_pages = nullptr;
  int64_t num_pages = 0;
  const StoredRun* runs = nullptr;  // device [num_runs], own positions
  int num_runs = 0;
  int64_t max_count = 0;              // of any run
  const float* keys = nullptr;        // device [rows, kv_dim]
  const float* values = nullptr;      // device [rows, kv_dim]
  const float* score_keys = nullptr;  // device [rows, score_dim]; null: scores are none or exact
};
absl::Status StoreRuns(const StoreRunsArgs& args, Stream stream);

// The newest token of each of several sequences, known to all ranks. Keys and values go to the
// owner's page, which must exist; score keys to every page whose stripe or halo holds the position.
struct StoreTokensArgs {
  CacheLayer layer;
  const DecodeRow* rows = nullptr;    // device [num_rows]; at position -1 nothing is stored
  const int64_t* pages_of = nullptr;  // device [num_rows]: pages that a row's table has
  int num_rows = 0;
  const float* keys = nullptr;        // device [num_rows, kv_dim]
  const float* values = nullptr;      // device [num_rows, kv_dim]
  const float* score_keys = nullptr;  // device [num_rows, score_dim]; null: none, or the keys
};
absl::Status StoreTokens(const StoreTokensArgs& args, Stream stream);

// Consecutive rows of score keys of one page, and their place in a message. Row 0 of a page is its
// first halo row.
struct ScoreRun {
  int64_t page = 0;
  int64_t first_row = 0;
  int64_t count = 0;
  int64_t message_row = 0;
};
struct CopyScoreRowsArgs {
  CacheLayer layer;
  std::byte* const* pages = nullptr;  // device: this rank's pages of the sequence
  const ScoreRun* runs = nullptr;     // device [num_runs]
  int num_runs = 0;
  int64_t max_count = 0;         // of any run
  std::byte* message = nullptr;  // device [rows, score_dim] of the layer's score_dtype
  bool to_pages = false;         // from the message; otherwise into it
};
absl::Status CopyScoreRows(const CopyScoreRowsArgs& args, Stream stream);

// Keys and values of own positions as a message: row i is the key, then the value, of the position
// whose local index (ShardGeometry) is local_indices[i].
struct GatherRowsArgs {
  CacheLayer layer;
  const std::byte* const* pages = nullptr;  // device: this rank's pages of the sequence
  const uint32_t* local_indices = nullptr;  // device [max_count]
  int64_t max_count = 0;
  const int64_t* count = nullptr;  // device: of local_indices; null: max_count
  std::byte* message = nullptr;    // device [max_count, 2, kv_dim] of the layer's dtype
};
absl::Status GatherRows(const GatherRowsArgs& args, Stream stream);

// sums[r, g*head_dim + d] = sum of queries[r, h, d] over the heads h of KV group g, in their order.
struct SumGroupsArgs {
  AttentionShape shape;
  const float* queries = nullptr;  // device [rows, heads, head_dim]
  int64_t rows = 0;
  void* sums = nullptr;  // device [rows, kv_dim] of `dtype`
  DType dtype = DType::kFloat32;
};
absl::Status SumGroups(const SumGroupsArgs& args, Stream stream);

// Numbers from one dtype to another.
absl::Status Convert(const void* from, DType from_dtype, void* to, DType to_dtype, int64_t count,
                     Stream stream);

// Of a few decoded tokens: compressed queries A^T (group sums) and compressed keys B^T k.
struct CompressTokensArgs {
  AttentionShape shape;
  const float* queries = nullptr;  // device [rows, heads, head_dim], before RoPE
  const float* keys = nullptr;     // device [rows, kv_dim], before RoPE
  int64_t rows = 0;
  const void* query_factor = nullptr;  // device A^T [dim, kv_dim] of `dtype`
  const void* key_factor = nullptr;    // device B^T [dim, kv_dim] of `dtype`
  DType dtype = DType::kFloat32;
  int64_t dim = 0;
  float* compressed_queries = nullptr;  // device [rows, dim]
};

// Compresses, and stores as StoreTokens does with the compressed keys, from float32, as score keys,
// in one launch; score_keys is not used. A row's bits do not depend on the others. InvalidArgument:
// as StoreTokens; rows of the factors, or heads of float32, that are no multiples of 16 bytes, or
// inputs not aligned to them; other numbers of rows or dimensions to store than are compressed.
absl::Status CompressAndStoreTokens(const CompressTokensArgs& compress,
                                    const StoreTokensArgs& store, Stream stream);

}  // namespace longspan::cuda

#endif  // LONGSPAN_KERNELS_CUDA_CACHE_STORE_H_
