#include "runtime/phase_clock.h"

#include "runtime/clock.h"

namespace longspan {

double PhaseClock::Waited() const {
  double seconds = 0;
  for (const auto& [name, call] : communicator_.stats()) seconds += call.seconds_waited;
  return seconds;
}

void PhaseClock::Settle() {
  const double now = MonotonicSeconds();
  const double waited = Waited();
  seconds_[static_cast<int>(phase_)] += now - settled_ - (waited - settled_waited_);
  settled_ = now;
  settled_waited_ = waited;
}

void PhaseClock::Begin() {
  before_ = communicator_.stats();
  seconds_.fill(0);
  phase_ = Phase::kOtherCompute;
  settled_waited_ = Waited();
  begin_ = settled_ = MonotonicSeconds();
}

void PhaseClock::End(StagePhases* stage) {
  Settle();
  stage->steps += 1;
  stage->wall_s += settled_ - begin_;
  for (int p = 0; p < kNumPhases; ++p) stage->seconds[p] += seconds_[p];
  for (const auto& [name, call] : communicator_.stats()) {
    const auto found = before_.find(name);
    const CallStats before = found == before_.end() ? CallStats() : found->second;
    if (call.calls == before.calls) continue;
    const double waited = call.seconds_waited - before.seconds_waited;
    CallStats& sum = stage->calls[name];
    sum.calls += call.calls - before.calls;
    sum.bytes_sent += call.bytes_sent - before.bytes_sent;
    sum.seconds_waited += waited;
    stage->seconds[static_cast<int>(PhaseOfCall(name))] += waited;
  }
}

}  // namespace longspan
