#include "runtime/gpu_model.h"

#include <algorithm>
#include <cstring>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "collectives/agree.h"
#include "kernels/base/status_macros.h"
#include "runtime/cuda/cuda_transformer.h"
#include "runtime/cuda/gpu.h"

namespace longspan {
namespace {

// Bits are equal across ranks only if all compute on the same kind of GPU.
absl::Status CheckSameGpus(Communicator* communicator, const Gpu& gpu) {
  char mine[256] = {};
  gpu.info.name.copy(mine, sizeof(mine) - 1);
  std::vector<char> all(communicator->size() * sizeof(mine));
  LONGSPAN_RETURN_IF_ERROR(communicator->AllGather("gpu.names", mine, all.data(), sizeof(mine)));
  for (int r = 1; r < communicator->size(); ++r) {
    const char* other = all.data() + r * sizeof(mine);
    if (std::strcmp(all.data(), other) == 0) continue;
    return absl::FailedPreconditionError(absl::StrCat("deterministic: rank 0 computes on ",
                                                      all.data(), " but rank ", r, " on ", other,
                                                      "; use GPUs of one kind"));
  }
  return absl::OkStatus();
}

int64_t BufferBytes(Config config, const Model& model, int64_t max_model_len) {
  config.max_model_len = max_model_len;
  return CudaTransformer::Bytes(CudaSizes::Of(config, model.config, model.attention,
                                              model.gpu->sharers, model.gpu->multiprocessors()));
}

}  // namespace

absl::Status OpenModelGpu(const Config& config, Communicator* communicator, Model* model) {
  LONGSPAN_ASSIGN_OR_RETURN(std::unique_ptr<Gpu> gpu, OpenGpu(config, communicator));
  model->gpu = std::move(gpu);
  return config.deterministic ? CheckSameGpus(communicator, *model->gpu) : absl::OkStatus();
}

absl::StatusOr<MemoryPlan> PlanGpuMemory(const Config& config, const Model& model) {
  LONGSPAN_ASSIGN_OR_RETURN(const cuda::MemoryInfo memory, cuda::FreeMemory());
  const DType dtype = config.dtype == "bfloat16" ? DType::kBFloat16 : DType::kFloat32;
  MemoryPlan plan;
  plan.available = memory.free / model.gpu->sharers;
  plan.weights = CudaWeights::Bytes(model.weights, model.attention.factors, dtype);
  plan.page = model.attention.kv.page_bytes();
  int64_t longest = config.max_model_len;
  if (longest == 0) {
    // Some buffers grow with the context: as many pages as there would be without any is more than
    // there will be.
    plan.activations = BufferBytes(config, model, 1);
    const SequenceLayout& layout = model.attention.layout;
    longest = std::clamp<int64_t>(
        plan.MaxPages(config.kv_cache_memory_fraction) * layout.stripe_tokens * layout.num_ranks, 1,
        kMaxPosition);
  }
  plan.activations = BufferBytes(config, model, longest);
  return plan;
}

AllocatePage GpuPages() { return AllocateDevicePage; }

absl::StatusOr<std::unique_ptr<Transformer>> MakeGpuTransformer(const Config& config,
                                                                const Model& model) {
  return CudaTransformer::Create(config, model.config, model.weights, model.attention,
                                 model.gpu.get());
}

}  // namespace longspan
