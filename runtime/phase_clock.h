#ifndef LONGSPAN_RUNTIME_PHASE_CLOCK_H_
#define LONGSPAN_RUNTIME_PHASE_CLOCK_H_

#include <utility>
#include <vector>

#include "collectives/communicator.h"
#include "runtime/phases.h"

namespace longspan {

// The calls that were made in between.
CommunicatorStats CallsSince(const CommunicatorStats& before, const CommunicatorStats& now);

// Shares out a rank's time in a stage among phases: what passes within collectives by their names,
// everything else to the phase that the code is in. Reading it costs a tenth of a microsecond.
class PhaseClock {
 public:
  explicit PhaseClock(const Communicator& communicator) : communicator_(communicator) {}

  // Between them lies one step of a stage, to whose sums End adds.
  void Begin();
  void End(StagePhases* stage);

  // What a GPU's streams spent a part of the step on, and the collectives in them: in place of the
  // spans, as the host is elsewhere meanwhile. What is left of the step counts as other compute.
  void AddGpu(const PhaseSeconds& seconds, const CommunicatorStats& calls);

  // Returns the phase that the code was in.
  Phase Enter(Phase phase) {
    Settle();
    return std::exchange(phase_, phase);
  }

 private:
  double Waited();  // in all collectives so far
  // The time since the last call goes to the present phase.
  void Settle();

  const Communicator& communicator_;
  std::vector<const CallStats*> calls_;  // those of its statistics: a walk of the map is slow
  CommunicatorStats before_;             // the step
  double begin_ = 0;
  double settled_ = 0, settled_waited_ = 0;
  Phase phase_ = Phase::kOtherCompute;
  PhaseSeconds seconds_{};
  bool on_gpu_ = false;
  PhaseSeconds gpu_seconds_{};
  CommunicatorStats gpu_calls_;
};

// The code of a scope is in `phase`, but for the spans within. Without a clock nothing happens.
class PhaseSpan {
 public:
  PhaseSpan(PhaseClock* clock, Phase phase) : clock_(clock) {
    if (clock_ != nullptr) outer_ = clock_->Enter(phase);
  }
  ~PhaseSpan() {
    if (clock_ != nullptr) clock_->Enter(outer_);
  }
  PhaseSpan(const PhaseSpan&) = delete;
  PhaseSpan& operator=(const PhaseSpan&) = delete;

 private:
  PhaseClock* clock_;
  Phase outer_ = Phase::kOtherCompute;
};

}  // namespace longspan

#endif  // LONGSPAN_RUNTIME_PHASE_CLOCK_H_
