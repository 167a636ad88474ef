#ifndef LONGSPAN_RUNTIME_CUDA_CUDA_PHASES_H_
#define LONGSPAN_RUNTIME_CUDA_CUDA_PHASES_H_

#include <cstddef>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "kernels/cuda/device.h"
#include "runtime/phases.h"

namespace longspan {

// Where the time of a forward pass on one GPU goes: events in its main stream where phases change,
// and around what the ring's stream exchanges meanwhile. Those of a captured pass become part of
// the graph, and have the times of its last launch. An event takes about a microsecond, so that a
// decoded token with them takes some percent longer.
class CudaPhases {
 public:
  explicit CudaPhases(cuda::Stream stream) : stream_(stream) {}

  // A pass begins, or a graph of one is captured.
  void Begin();
  void End();
  // What is put in the main stream from here on is in `phase`. Returns what it was in.
  Phase Enter(Phase phase);
  // Around an exchange in the ring's stream.
  void BeginRing(cuda::Stream ring);
  void EndRing(cuda::Stream ring);

  struct Times {
    PhaseSeconds phases{};
    double ring_s = 0;  // between BeginRing and EndRing: gathering, waiting for peers, transferring
  };
  // Of the last pass, whose streams have been waited for. The error is the first of any call.
  absl::StatusOr<Times> Read() const;

 private:
  size_t Record(cuda::Stream stream);  // an event; its index

  cuda::Stream stream_;
  std::vector<cuda::TimedEvent> events_;  // kept for the next pass
  size_t recorded_ = 0;
  struct Mark {
    size_t event;
    Phase phase;  // of what comes behind it
  };
  std::vector<Mark> marks_;
  std::vector<std::pair<size_t, size_t>> rings_;
  Phase phase_ = Phase::kOtherCompute;
  absl::Status error_;
};

// What a scope puts in the main stream is in `phase`, but for the spans within. Without phases
// nothing happens.
class CudaPhaseSpan {
 public:
  CudaPhaseSpan(CudaPhases* phases, Phase phase) : phases_(phases) {
    if (phases_ != nullptr) outer_ = phases_->Enter(phase);
  }
  ~CudaPhaseSpan() {
    if (phases_ != nullptr) phases_->Enter(outer_);
  }
  CudaPhaseSpan(const CudaPhaseSpan&) = delete;
  CudaPhaseSpan& operator=(const CudaPhaseSpan&) = delete;

 private:
  CudaPhases* phases_;
  Phase outer_ = Phase::kOtherCompute;
};

}  // namespace longspan

#endif  // LONGSPAN_RUNTIME_CUDA_CUDA_PHASES_H_
