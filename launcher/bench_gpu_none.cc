#include "launcher/bench_gpu.h"

namespace longspan {
namespace {

absl::Status NoCuda() {
  return absl::UnimplementedError(
      "this build has no CUDA; build the preset cuda: cmake --preset cuda && cmake --build "
      "--preset "
      "cuda");
}

}  // namespace

absl::StatusOr<BenchMachine> MeasureGpu() { return NoCuda(); }

absl::StatusOr<std::vector<BenchRow>> MeasureGpuKernels(const BenchShape&, const BenchOptions&) {
  return NoCuda();
}

absl::StatusOr<std::vector<BenchRow>> MeasureGpuCollectives(absl::Span<const CollectiveCase>,
                                                            int64_t, const Config&, Communicator&) {
  return NoCuda();
}

absl::Status CopyToGpu(void*, const void*, int64_t) { return NoCuda(); }

}  // namespace longspan
