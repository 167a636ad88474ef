#include "runtime/cuda/cuda_phases.h"

#include "kernels/base/check.h"
#include "kernels/base/status_macros.h"

namespace longspan {

void CudaPhases::Begin() {
  recorded_ = 0;
  marks_.clear();
  rings_.clear();
  error_ = absl::OkStatus();
  Enter(Phase::kOtherCompute);
}

void CudaPhases::End() { Enter(Phase::kOtherCompute); }

Phase CudaPhases::Enter(Phase phase) {
  marks_.push_back({Record(stream_), phase});
  return std::exchange(phase_, phase);
}

void CudaPhases::BeginRing(cuda::Stream ring) { rings_.emplace_back(Record(ring), 0); }

void CudaPhases::EndRing(cuda::Stream ring) { rings_.back().second = Record(ring); }

size_t CudaPhases::Record(cuda::Stream stream) {
  if (recorded_ == events_.size()) {
    absl::StatusOr<cuda::TimedEvent> event = cuda::TimedEvent::Create();
    error_.Update(event.status());
    events_.push_back(event.ok() ? *std::move(event) : cuda::TimedEvent());
  }
  if (error_.ok()) error_ = events_[recorded_].Record(stream);
  return recorded_++;
}

absl::StatusOr<CudaPhases::Times> CudaPhases::Read() const {
  LONGSPAN_RETURN_IF_ERROR(error_);
  Times times;
  for (size_t i = 0; i + 1 < marks_.size(); ++i) {
    LONGSPAN_ASSIGN_OR_RETURN(
        const double seconds,
        cuda::SecondsBetween(events_[marks_[i].event], events_[marks_[i + 1].event]));
    times.phases[static_cast<int>(marks_[i].phase)] += seconds;
  }
  for (const auto& [begin, end] : rings_) {
    LONGSPAN_ASSIGN_OR_RETURN(const double seconds,
                              cuda::SecondsBetween(events_[begin], events_[end]));
    times.ring_s += seconds;
  }
  return times;
}

}  // namespace longspan
