#ifndef LONGSPAN_RUNTIME_VOTE_SCORES_H_
#define LONGSPAN_RUNTIME_VOTE_SCORES_H_

#include "absl/status/status.h"
#include "absl/types/span.h"
#include "runtime/score_source.h"

namespace longspan {

// Scores that several voters make: `esa.score: head_max`, `soft_vote` and `group_vote`
// (docs/ALGORITHM.md, "Other scores"). candidates: [blocks or tokens, top_k], this rank's.
// Collective.
absl::Status ScoreBlocksByVotes(const AttentionContext& context, const ScoreSource& source,
                                absl::Span<const ScoredBlock> blocks, Candidate* candidates);
absl::Status ScoreTokensByVotes(const AttentionContext& context,
                                absl::Span<const ScoredToken> tokens, Candidate* candidates);

}  // namespace longspan

#endif  // LONGSPAN_RUNTIME_VOTE_SCORES_H_
