#include "runtime/rank_stats.h"

#include "runtime/phases.h"

namespace longspan {

RankStats RankStatsOf(const CommunicatorStats& stats) {
  RankStats sums;
  for (const auto& [name, call] : stats) {
    const Phase phase = PhaseOfCall(name);
    if (phase == Phase::kOtherExchange) continue;
    const bool moves = phase == Phase::kRingWait || phase == Phase::kPartialMerge;
    (moves ? sums.ring_s : sums.merge_s) += call.seconds_waited;
  }
  return sums;
}

absl::Status GatherRankStats(Communicator* communicator, std::vector<RankStats>* all) {
  const RankStats mine = RankStatsOf(communicator->stats());
  all->resize(communicator->size());
  return communicator->AllGather("stats.ranks", &mine, all->data(), sizeof(mine));
}

}  // namespace longspan
