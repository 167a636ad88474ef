#include "launcher/bench_collectives.h"

#include <algorithm>
#include <memory>
#include <utility>
#include <vector>

#include "absl/types/span.h"
#include "collectives/device_communicator.h"
#include "kernels/base/status_macros.h"
#include "launcher/bench_gpu.h"
#include "runtime/clock.h"
#include "runtime/cuda/gpu.h"

namespace longspan {
namespace {

using cuda::Graph;
using cuda::Stream;

constexpr int64_t kWarmupRuns = 3;
constexpr int kCallsInARow = 16;  // that one run is made of, so that starting it counts little

// How the calls come to the GPU, and where their data is.
struct Way {
  const char* name;
  bool
      in_graph;  // replays, as of a decode step; else each call is put in the stream, as in prefill
  bool shared;   // memory of AllocateShared
};
constexpr Way kWays[] = {{"called", false, false},
                         {"called, shared memory", false, true},
                         {"graph", true, false},
                         {"graph, shared memory", true, true}};

absl::Status Call(DeviceCommunicator& communicator, const CollectiveCase& of, std::byte* memory,
                  Stream stream) {
  std::byte* const received = memory + of.bytes;
  if (of.kind == CollectiveKind::kAllGather) {
    return communicator.AllGather("bench.gather", memory, received, of.bytes, stream);
  }
  if (of.kind == CollectiveKind::kAllReduceMax) {
    return communicator.AllReduceMax("bench.maxima", reinterpret_cast<float*>(memory), of.count(),
                                     stream);
  }
  if (of.kind == CollectiveKind::kAllReduceSum) {
    return communicator.AllReduceSum("bench.sums", reinterpret_cast<uint32_t*>(memory), of.count(),
                                     stream);
  }
  const RingStep step = NextRank(of, communicator.rank(), communicator.size(), memory);
  return communicator.Exchange("bench.ring", {&step.send, 1}, {&step.receive, 1}, stream);
}

// Seconds of one call, run by run.
absl::StatusOr<std::vector<double>> Time(Gpu& gpu, Communicator& host, const CollectiveCase& of,
                                         const Way& way, std::byte* memory, int64_t runs) {
  DeviceCommunicator& communicator = *gpu.communicator;
  const auto calls = [&]() -> absl::Status {
    for (int c = 0; c < kCallsInARow; ++c) {
      LONGSPAN_RETURN_IF_ERROR(Call(communicator, of, memory, gpu.s()));
    }
    return absl::OkStatus();
  };
  LONGSPAN_RETURN_IF_ERROR(calls());  // connects
  LONGSPAN_RETURN_IF_ERROR(communicator.Synchronize(gpu.s()));
  Graph graph;
  if (way.in_graph) {
    LONGSPAN_ASSIGN_OR_RETURN(graph, Graph::Capture(gpu.s(), calls));
  }
  std::vector<double> seconds;
  for (int64_t i = 0; i < runs + kWarmupRuns; ++i) {
    LONGSPAN_RETURN_IF_ERROR(host.Barrier("bench.start"));
    const double begin = MonotonicSeconds();
    LONGSPAN_RETURN_IF_ERROR(way.in_graph ? graph.Launch(gpu.s()) : calls());
    LONGSPAN_RETURN_IF_ERROR(communicator.Synchronize(gpu.s()));
    const double end = MonotonicSeconds();
    if (i >= kWarmupRuns) seconds.push_back((end - begin) / kCallsInARow);
  }
  return seconds;
}

}  // namespace

absl::StatusOr<std::vector<BenchRow>> MeasureGpuCollectives(absl::Span<const CollectiveCase> cases,
                                                            int64_t runs, const Config& config,
                                                            Communicator& communicator) {
  LONGSPAN_ASSIGN_OR_RETURN(const std::unique_ptr<Gpu> gpu,
                            OpenGpu(config, &communicator, &communicator));
  int64_t bytes = 0;
  for (const CollectiveCase& of : cases) {
    bytes = std::max(bytes, of.buffer_bytes(communicator.size()));
  }
  // Before any graph is made, as it asks.
  LONGSPAN_ASSIGN_OR_RETURN(std::byte* const shared, gpu->communicator->AllocateShared(bytes));
  LONGSPAN_ASSIGN_OR_RETURN(const cuda::Buffer own, cuda::Buffer::Allocate(bytes));
  LONGSPAN_RETURN_IF_ERROR(cuda::Fill(shared, 0, bytes, gpu->s()));
  LONGSPAN_RETURN_IF_ERROR(cuda::Fill(own.data(), 0, bytes, gpu->s()));
  std::vector<BenchRow> rows;
  for (const CollectiveCase& of : cases) {
    for (const Way& way : kWays) {
      if (way.in_graph && !gpu->communicator->stream_ordered()) continue;
      std::byte* const memory = way.shared ? shared : own.data();
      LONGSPAN_ASSIGN_OR_RETURN(std::vector<double> seconds,
                                Time(*gpu, communicator, of, way, memory, runs));
      rows.push_back(CollectiveRow(of, way.name, std::move(seconds), communicator.size()));
    }
  }
  return rows;
}

}  // namespace longspan
