#include "runtime/gpu_model.h"

namespace longspan {
namespace {

absl::Status NoCuda() { return absl::UnimplementedError("this build has no CUDA"); }

}  // namespace

absl::Status OpenModelGpu(const Config&, Communicator*, Model*) { return NoCuda(); }

absl::StatusOr<std::vector<std::string>> DescribeGpus() { return NoCuda(); }

absl::StatusOr<int> UseFirstGpu(int) { return NoCuda(); }

absl::StatusOr<MemoryPlan> PlanGpuMemory(const Config&, const ModelConfig&, const ModelWeights&,
                                         const AttentionContext&, int, int) {
  return NoCuda();
}

absl::StatusOr<MemoryPlan> PlanGpuMemory(const Config&, const Model&) { return NoCuda(); }

PageMemory GpuPages(const Config&) { return {}; }

absl::StatusOr<std::unique_ptr<Transformer>> MakeGpuTransformer(const Config&, const Model&) {
  return NoCuda();
}

}  // namespace longspan
