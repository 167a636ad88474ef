#include "launcher/cuda/bench_timing.h"

#include <cuda_runtime.h>

#include <memory>
#include <utility>
#include <vector>

#include "kernels/base/status_macros.h"

namespace longspan {
namespace {

using cuda::Graph;
using cuda::Stream;
using cuda::StreamHandle;

constexpr int kWarmupReplays = 2;

struct DestroyEvent {
  void operator()(cudaEvent_t event) const { cudaEventDestroy(event); }
};
using TimedEvent = std::unique_ptr<CUevent_st, DestroyEvent>;

// Those of device.h have no time.
absl::StatusOr<TimedEvent> CreateTimedEvent() {
  cudaEvent_t event = nullptr;
  LONGSPAN_RETURN_IF_ERROR(cuda::ToStatus(cudaEventCreate(&event), "cudaEventCreate"));
  return TimedEvent(event);
}

absl::Status Record(const TimedEvent& event, Stream stream) {
  return cuda::ToStatus(cudaEventRecord(event.get(), stream), "cudaEventRecord");
}

}  // namespace

absl::StatusOr<Timing> TimeLaunches(int variants, int64_t replays, Launch launch) {
  LONGSPAN_ASSIGN_OR_RETURN(const StreamHandle stream, StreamHandle::Create());
  // What inputs were uploaded with does not wait for this stream, nor this stream for it.
  LONGSPAN_RETURN_IF_ERROR(cuda::Synchronize(nullptr));
  LONGSPAN_RETURN_IF_ERROR(launch(0, stream.get()));  // loads kernels and chooses algorithms
  LONGSPAN_ASSIGN_OR_RETURN(const Graph graph, Graph::Capture(stream.get(), [&]() -> absl::Status {
                              for (int v = 0; v < variants; ++v) {
                                LONGSPAN_RETURN_IF_ERROR(launch(v, stream.get()));
                              }
                              return absl::OkStatus();
                            }));
  LONGSPAN_ASSIGN_OR_RETURN(const TimedEvent begin, CreateTimedEvent());
  LONGSPAN_ASSIGN_OR_RETURN(const TimedEvent end, CreateTimedEvent());
  std::vector<double> seconds;
  for (int64_t i = 0; i < replays + kWarmupReplays; ++i) {
    LONGSPAN_RETURN_IF_ERROR(Record(begin, stream.get()));
    LONGSPAN_RETURN_IF_ERROR(graph.Launch(stream.get()));
    LONGSPAN_RETURN_IF_ERROR(Record(end, stream.get()));
    LONGSPAN_RETURN_IF_ERROR(
        cuda::ToStatus(cudaEventSynchronize(end.get()), "cudaEventSynchronize"));
    float milliseconds = 0;
    LONGSPAN_RETURN_IF_ERROR(cuda::ToStatus(
        cudaEventElapsedTime(&milliseconds, begin.get(), end.get()), "cudaEventElapsedTime"));
    if (i >= kWarmupReplays) seconds.push_back(milliseconds * 1e-3 / variants);
  }
  return Summarize(std::move(seconds));
}

}  // namespace longspan
