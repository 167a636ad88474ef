#ifndef LONGSPAN_RUNTIME_PHASES_H_
#define LONGSPAN_RUNTIME_PHASES_H_

#include <array>
#include <cstdint>
#include <limits>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "collectives/communicator.h"
#include "sharding/phase.h"

namespace longspan {

// What the waits of a collective count as, by the name of the call.
Phase PhaseOfCall(absl::string_view name);

using PhaseSeconds = std::array<double, kNumPhases>;  // NaN: not measured
inline constexpr double kNotMeasured = std::numeric_limits<double>::quiet_NaN();

// One rank's steps of one kind, since it began to count.
struct StagePhases {
  int64_t steps = 0;
  double wall_s = 0;  // of the steps, from the plan to the last result
  // Their parts. They add up to wall_s where all are measured.
  PhaseSeconds seconds{};
  // Within the steps. On a GPU the seconds of ring.keys are those of its stream, beside the others,
  // and of what only enqueues the host's.
  CommunicatorStats calls;
};

// One rank's phases.
struct RankPhases {
  StagePhases prefill;  // a step is a chunk
  StagePhases decode;   // a step is a token of every sequence that decodes
};

// Sums of the phases of work, and of all others.
double ComputeSeconds(const StagePhases& stage);
double ExchangeSeconds(const StagePhases& stage);

// Of all ranks, in their order. Collective; relies on all ranks having made the same calls.
absl::Status GatherPhases(Communicator* communicator, const RankPhases& mine,
                          std::vector<RankPhases>* all);

}  // namespace longspan

#endif  // LONGSPAN_RUNTIME_PHASES_H_
