#ifndef LONGSPAN_RUNTIME_EXACT_SELECTION_H_
#define LONGSPAN_RUNTIME_EXACT_SELECTION_H_

#include <cstdint>
#include <vector>

#include "absl/status/statusor.h"
#include "runtime/attention_context.h"

namespace longspan {

// What a decoded token would select with exact head sums of the cached keys, of `esa.target` and by
// `esa.unit_tokens` as the run has them, ascending, whatever esa.compression is: for statistics, as
// every rank gets the scores of all middle tokens, 4 bytes each. query: [heads, head_dim] before
// RoPE, equal on all ranks, of a CPU. `esa.score` must be head_sum. Collective.
absl::StatusOr<std::vector<int64_t>> SelectExactly(const AttentionContext& context, int64_t layer,
                                                   const DecodeToken& token, const float* query);

}  // namespace longspan

#endif  // LONGSPAN_RUNTIME_EXACT_SELECTION_H_
