#include "runtime/phase_clock.h"

#include <numeric>

#include "runtime/clock.h"

namespace longspan {
namespace {

void AddCalls(const CommunicatorStats& more, CommunicatorStats* sums) {
  for (const auto& [name, call] : more) {
    CallStats& sum = (*sums)[name];
    sum.calls += call.calls;
    sum.bytes_sent += call.bytes_sent;
    sum.seconds_waited += call.seconds_waited;
  }
}

}  // namespace

CommunicatorStats CallsSince(const CommunicatorStats& before, const CommunicatorStats& now) {
  CommunicatorStats calls;
  for (const auto& [name, call] : now) {
    const auto found = before.find(name);
    const CallStats then = found == before.end() ? CallStats() : found->second;
    if (call.calls == then.calls) continue;
    calls[name] = {call.calls - then.calls, call.bytes_sent - then.bytes_sent,
                   call.seconds_waited - then.seconds_waited};
  }
  return calls;
}

double PhaseClock::Waited() {
  const CommunicatorStats& stats = communicator_.stats();
  if (stats.size() != calls_.size()) {
    calls_.clear();
    for (const auto& [name, call] : stats) calls_.push_back(&call);
  }
  double seconds = 0;
  for (const CallStats* call : calls_) seconds += call->seconds_waited;
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
  on_gpu_ = false;
  gpu_seconds_.fill(0);
  gpu_calls_.clear();
  phase_ = Phase::kOtherCompute;
  settled_waited_ = Waited();
  begin_ = settled_ = MonotonicSeconds();
}

void PhaseClock::AddGpu(const PhaseSeconds& seconds, const CommunicatorStats& calls) {
  on_gpu_ = true;
  for (int p = 0; p < kNumPhases; ++p) gpu_seconds_[p] += seconds[p];
  AddCalls(calls, &gpu_calls_);
}

void PhaseClock::End(StagePhases* stage) {
  Settle();
  const double wall = settled_ - begin_;
  CommunicatorStats calls = CallsSince(before_, communicator_.stats());
  // What GPUs say by way of the host counts there.
  for (const auto& [name, call] : gpu_calls_) calls.erase(name);
  if (on_gpu_) seconds_ = gpu_seconds_;
  for (const auto& [name, call] : calls) {
    seconds_[static_cast<int>(PhaseOfCall(name))] += call.seconds_waited;
  }
  if (on_gpu_) {
    seconds_[static_cast<int>(Phase::kOtherCompute)] +=
        wall - std::accumulate(seconds_.begin(), seconds_.end(), 0.0);
  }
  stage->steps += 1;
  stage->wall_s += wall;
  for (int p = 0; p < kNumPhases; ++p) stage->seconds[p] += seconds_[p];
  AddCalls(calls, &stage->calls);
  AddCalls(gpu_calls_, &stage->calls);
}

}  // namespace longspan
