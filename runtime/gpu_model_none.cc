#include "runtime/gpu_model.h"

namespace longspan {
namespace {

absl::Status NoCuda() { return absl::UnimplementedError("this build has no CUDA"); }

}  // namespace

absl::Status OpenModelGpu(const Config&, Communicator*, Model*) { return NoCuda(); }

absl::StatusOr<MemoryPlan> PlanGpuMemory(const Config&, const Model&) { return NoCuda(); }

AllocatePage GpuPages() {
  return [](int64_t) -> absl::StatusOr<Page> { return NoCuda(); };
}

absl::StatusOr<std::unique_ptr<Transformer>> MakeGpuTransformer(const Config&, const Model&) {
  return NoCuda();
}

}  // namespace longspan
