#ifndef LONGSPAN_RUNTIME_RING_ATTENTION_H_
#define LONGSPAN_RUNTIME_RING_ATTENTION_H_

#include <cstdint>

#include "absl/status/status.h"
#include "absl/types/span.h"
#include "runtime/attention_context.h"
#include "runtime/selection.h"

namespace longspan {

// Attention of prefill blocks: the keys and values that each block reads come to its rank round a
// ring, while the rank attends to what has arrived (or, deterministically, after all has arrived,
// in order of position). Collective. queries and output: this rank's rows of `blocks`, [rows,
// heads, head_dim] float32, the first at row `first_row` of the chunk; queries are before RoPE.
absl::Status AttendBlocks(const AttentionContext& context, int64_t layer, KvShard* cache,
                          absl::Span<const PrefillBlock> blocks, const Selections& selections,
                          int64_t first_row, const float* queries, float* output);

// Attention of one token of each of several sequences. Every rank knows the queries, so each
// attends with its own tokens and the partial results are gathered; deterministically, the keys
// come to every rank. queries and output: [tokens, heads, head_dim], equal on all ranks.
absl::Status AttendTokens(const AttentionContext& context, int64_t layer,
                          absl::Span<const DecodeToken> tokens, const Selections& selections,
                          const float* queries, float* output);

}  // namespace longspan

#endif  // LONGSPAN_RUNTIME_RING_ATTENTION_H_
