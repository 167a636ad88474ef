#ifndef LONGSPAN_RUNTIME_PARTIAL_ATTENTION_H_
#define LONGSPAN_RUNTIME_PARTIAL_ATTENTION_H_

#include <cstdint>

#include "absl/status/status.h"
#include "absl/types/span.h"
#include "runtime/attention_context.h"
#include "sharding/ring_schedule.h"

// Attention in which keys stay: every rank attends with its own tokens, and what moves is queries
// and partial results (output and log-sum-exp), which the queries' rank merges. Not bit-equal over
// numbers of ranks. Collective.
namespace longspan {

// Prefill blocks: queries go round a ring, and partials come back. keys: of each block. queries and
// output: this rank's rows of `blocks`, one after the other, [rows, heads, head_dim] float32;
// queries are before RoPE.
absl::Status AttendBlocksByPartials(const AttentionContext& context, int64_t layer, KvShard* cache,
                                    absl::Span<const PrefillBlock> blocks,
                                    absl::Span<const BlockKeys> keys, const float* queries,
                                    float* output);

// One token of each of several sequences, whose queries every rank knows. keys: of each token.
// queries and output: [tokens, heads, head_dim], equal on all ranks.
absl::Status AttendTokensByPartials(const AttentionContext& context, int64_t layer,
                                    absl::Span<const DecodeToken> tokens,
                                    absl::Span<const BlockKeys> keys, const float* queries,
                                    float* output);

}  // namespace longspan

#endif  // LONGSPAN_RUNTIME_PARTIAL_ATTENTION_H_
