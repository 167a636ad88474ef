#ifndef LONGSPAN_RUNTIME_HEAD_SUM_SCORES_H_
#define LONGSPAN_RUNTIME_HEAD_SUM_SCORES_H_

#include "absl/status/status.h"
#include "absl/types/span.h"
#include "runtime/score_source.h"

namespace longspan {

// `esa.score: head_sum`: each query's maximum over the middle, then F of what can be selected
// (docs/ALGORITHM.md, "One layer of a prefill chunk", step 3). candidates: [blocks, top_k], this
// rank's. Collective.
absl::Status ScoreByHeadSum(const AttentionContext& context, const ScoreSource& source,
                            absl::Span<const SelectingBlock> selecting,
                            absl::Span<const ScoredBlock> blocks, Candidate* candidates);

}  // namespace longspan

#endif  // LONGSPAN_RUNTIME_HEAD_SUM_SCORES_H_
