#ifndef LONGSPAN_RUNTIME_SELECTION_H_
#define LONGSPAN_RUNTIME_SELECTION_H_

#include <cstdint>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "runtime/attention_context.h"
#include "runtime/candidate_merge.h"

namespace longspan {

// Scores each rank's own tokens against the queries of all ranks and merges the local top-k (ESA,
// arXiv 2502.14477, section 3; docs/ALGORITHM.md). Collective. `queries` are this rank's rows of
// `blocks`, [rows, heads, head_dim] float32 before RoPE, the first at row `first_row` of the chunk.
absl::StatusOr<Selections> SelectForBlocks(const AttentionContext& context, int64_t layer,
                                           KvShard* cache, absl::Span<const PrefillBlock> blocks,
                                           int64_t first_row, const float* queries);

// The same for one token of each of several sequences. queries: [tokens, heads, head_dim], equal on
// all ranks.
absl::StatusOr<Selections> SelectForTokens(const AttentionContext& context, int64_t layer,
                                           absl::Span<const DecodeToken> tokens,
                                           const float* queries);

// Queries [rows, heads, head_dim] before RoPE as exact scores of `esa.target` have them: rotated to
// far_position, or as they are.
std::vector<float> AtTarget(const AttentionContext& context, const float* queries, int64_t rows);

// The positions in `middle` of what was selected: units of `esa.unit_tokens`, ascending.
std::vector<int64_t> TokensOf(const AttentionContext& context, std::vector<int64_t> selected,
                              Range middle);

// Queries [rows, heads, head_dim] summed over each group that shares a key: [rows, kv_dim]. The
// head-summed score is one dot product of that with the concatenated keys.
std::vector<float> SumGroups(const AttentionShape& shape, const float* queries, int64_t rows);

// What the score reads of keys [rows, kv_dim]: out [rows, score_dim]. Prefill uses whole panels of
// rows, decode few rows.
void CompressKeys(const AttentionContext& context, int64_t layer, const float* keys, int64_t rows,
                  bool decode, float* out);

}  // namespace longspan

#endif  // LONGSPAN_RUNTIME_SELECTION_H_
