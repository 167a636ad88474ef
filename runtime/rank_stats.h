#ifndef LONGSPAN_RUNTIME_RANK_STATS_H_
#define LONGSPAN_RUNTIME_RANK_STATS_H_

#include <vector>

#include "absl/status/status.h"
#include "collectives/communicator.h"

namespace longspan {

// Seconds that a rank's thread has spent inside the collectives of attention so far: transferring,
// and waiting for other ranks. What GPUs wait for in their streams, as with NCCL, no thread sees.
struct RankStats {
  double ring_s = 0;   // that move keys and values, or queries and partials
  double merge_s = 0;  // that merge a selection: queries, maxima, thresholds and candidates
};

RankStats RankStatsOf(const CommunicatorStats& stats);

// Of all ranks, in their order. Collective.
absl::Status GatherRankStats(Communicator* communicator, std::vector<RankStats>* all);

}  // namespace longspan

#endif  // LONGSPAN_RUNTIME_RANK_STATS_H_
