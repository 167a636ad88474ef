#ifndef LONGSPAN_LAUNCHER_PLAN_SIMULATE_H_
#define LONGSPAN_LAUNCHER_PLAN_SIMULATE_H_

#include <cstdint>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "launcher/plan_choices.h"
#include "launcher/plan_prediction.h"

// `longspan plan --simulate`: how phases and bytes grow with ranks, with either merge of
// candidates.
namespace longspan {

// One number of ranks with one merge.
struct SimulatedRanks {
  int ranks = 1;
  MergeWay merge = MergeWay::kAllGather;
  bool can_run = true;       // false: a gather among more GPUs than kMostGatheringGpus
  int64_t chunk_tokens = 0;  // the config's, or a block for every rank if that is more
  Prediction token;          // behind the whole context
  Prediction chunk;          // the last of the context
  // Whether this merge is the one that the config comes to.
  bool token_runs = false, chunk_runs = false;
};

// With the merge that the config asks for, and the other one.
absl::StatusOr<std::vector<SimulatedRanks>> SimulateRanks(const PlanSubject& subject,
                                                          const std::vector<int64_t>& ranks,
                                                          int64_t context, int64_t batch,
                                                          const PlanProgress& progress);

std::string SimulationTable(const std::vector<SimulatedRanks>& rows);
nlohmann::ordered_json SimulationJson(const std::vector<SimulatedRanks>& rows);

}  // namespace longspan

#endif  // LONGSPAN_LAUNCHER_PLAN_SIMULATE_H_
