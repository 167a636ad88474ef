#include "launcher/cuda/bench_timing.h"

#include <utility>
#include <vector>

#include "kernels/base/status_macros.h"

namespace longspan {
namespace {

using cuda::Graph;
using cuda::Stream;
using cuda::StreamHandle;
using cuda::TimedEvent;

constexpr int kWarmupReplays = 2;

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
  LONGSPAN_ASSIGN_OR_RETURN(TimedEvent begin, TimedEvent::Create());
  LONGSPAN_ASSIGN_OR_RETURN(TimedEvent end, TimedEvent::Create());
  std::vector<double> seconds;
  for (int64_t i = 0; i < replays + kWarmupReplays; ++i) {
    LONGSPAN_RETURN_IF_ERROR(begin.Record(stream.get()));
    LONGSPAN_RETURN_IF_ERROR(graph.Launch(stream.get()));
    LONGSPAN_RETURN_IF_ERROR(end.Record(stream.get()));
    LONGSPAN_RETURN_IF_ERROR(cuda::Synchronize(stream.get()));
    LONGSPAN_ASSIGN_OR_RETURN(const double replay, cuda::SecondsBetween(begin, end));
    if (i >= kWarmupReplays) seconds.push_back(replay / variants);
  }
  return Summarize(std::move(seconds));
}

}  // namespace longspan
