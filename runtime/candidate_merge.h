#ifndef LONGSPAN_RUNTIME_CANDIDATE_MERGE_H_
#define LONGSPAN_RUNTIME_CANDIDATE_MERGE_H_

#include <cstdint>
#include <optional>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "runtime/attention_context.h"
#include "sharding/merge_choice.h"
#include "sharding/topk_merge.h"

namespace longspan {

// Middle positions (MergeCandidates: or units) that each block selected, ascending, the same on
// every rank. [blocks]
using Selections = std::vector<std::vector<int64_t>>;

// Empty: what is cheaper.
std::optional<MergeWay> MergeWayOf(SelectionMerge merge);

// Bytes that a rank's candidates and a merge of them hold at most.
double MergeBytes(MergeWay way, int ranks, int64_t rows, int64_t top_k);
// The most of merges of up to so many rows, each in the way that is given, or else cheaper for it.
double MostMergeBytes(std::optional<MergeWay> way, int ranks, int64_t most_rows, int64_t top_k);

// The picks() first of all ranks' candidates, row by row. `mine` are this rank's, [rows, picks()],
// zeros where there are fewer, and are reordered within their rows. By an all-gather or by
// histogram, as context.merge says; the result is the same. Collective.
absl::StatusOr<Selections> MergeCandidates(const AttentionContext& context,
                                           absl::Span<Candidate> mine, int64_t rows);

}  // namespace longspan

#endif  // LONGSPAN_RUNTIME_CANDIDATE_MERGE_H_
