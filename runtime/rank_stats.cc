#include "runtime/rank_stats.h"

#include "absl/strings/match.h"

namespace longspan {

RankStats RankStatsOf(const CommunicatorStats& stats) {
  RankStats sums;
  for (const auto& [name, call] : stats) {
    if (absl::StartsWith(name, "select.")) sums.merge_s += call.seconds_waited;
    // The names of ring_attention.cc and partial_attention.cc, then those of a GPU.
    if (absl::StartsWith(name, "ring.") || absl::StartsWith(name, "decode.") ||
        absl::StartsWith(name, "attend.")) {
      sums.ring_s += call.seconds_waited;
    }
  }
  return sums;
}

absl::Status GatherRankStats(Communicator* communicator, std::vector<RankStats>* all) {
  const RankStats mine = RankStatsOf(communicator->stats());
  all->resize(communicator->size());
  return communicator->AllGather("stats.ranks", &mine, all->data(), sizeof(mine));
}

}  // namespace longspan
