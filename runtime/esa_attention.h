#ifndef LONGSPAN_RUNTIME_ESA_ATTENTION_H_
#define LONGSPAN_RUNTIME_ESA_ATTENTION_H_

#include <cstdint>

#include "absl/status/status.h"
#include "absl/types/span.h"
#include "runtime/attention_context.h"

// Efficient selective attention (arXiv 2502.14477) over the sharded cache, as docs/ALGORITHM.md has
// it: what each block attends to is selected, and then attended to. Dense and streaming attention
// are the same with nothing to select. Collective.
namespace longspan {

// Prefill blocks. queries and output: this rank's rows of `blocks`, [rows, heads, head_dim]
// float32, the first at row `first_row` of the chunk; queries are before RoPE.
absl::Status AttendBlocks(const AttentionContext& context, int64_t layer, KvShard* cache,
                          absl::Span<const PrefillBlock> blocks, int64_t first_row,
                          const float* queries, float* output);

// One token of each of several sequences. queries and output: [tokens, heads, head_dim], equal on
// all ranks.
absl::Status AttendTokens(const AttentionContext& context, int64_t layer,
                          absl::Span<const DecodeToken> tokens, const float* queries,
                          float* output);

}  // namespace longspan

#endif  // LONGSPAN_RUNTIME_ESA_ATTENTION_H_
