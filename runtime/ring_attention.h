#ifndef LONGSPAN_RUNTIME_RING_ATTENTION_H_
#define LONGSPAN_RUNTIME_RING_ATTENTION_H_

#include <cstdint>

#include "absl/status/status.h"
#include "absl/types/span.h"
#include "runtime/attention_context.h"
#include "sharding/ring_schedule.h"

// Attention in which queries stay: the keys and values that they read come to their rank round a
// ring. The rank attends to what has arrived, or, in deterministic mode, after all has arrived, in
// order of position. Collective.
namespace longspan {

// keys: of each of `blocks`. queries and output: this rank's rows of `blocks`, the first at row
// `first_row` of the chunk, [rows, heads, head_dim] float32; queries are before RoPE.
absl::Status AttendBlocksInRing(const AttentionContext& context, int64_t layer, KvShard* cache,
                                absl::Span<const PrefillBlock> blocks,
                                absl::Span<const BlockKeys> keys, int64_t first_row,
                                const float* queries, float* output);

// One token, the same on every rank: every rank reads all of its keys. query and output: [heads,
// head_dim], equal on all ranks.
absl::Status AttendTokenEverywhere(const AttentionContext& context, int64_t layer,
                                   const DecodeToken& token, const BlockKeys& keys,
                                   const float* query, float* output);

}  // namespace longspan

#endif  // LONGSPAN_RUNTIME_RING_ATTENTION_H_
