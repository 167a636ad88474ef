#include "runtime/gpu_model.h"

#include <algorithm>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "kernels/base/status_macros.h"
#include "kernels/cuda/linear.h"
#include "runtime/cuda/arena.h"
#include "runtime/cuda/cuda_limits.h"
#include "runtime/cuda/cuda_transformer.h"
#include "runtime/cuda/gpu.h"

namespace longspan {

absl::Status OpenModelGpu(const Config& config, Communicator* communicator, Model* model) {
  LONGSPAN_ASSIGN_OR_RETURN(std::unique_ptr<Gpu> gpu,
                            OpenGpu(config, communicator, model->attention.communicator));
  model->kernels = absl::StrCat(gpu->info.name, ", ", cuda::LinearLibrary());
  model->gpu = std::move(gpu);
  return absl::OkStatus();
}

absl::StatusOr<std::vector<std::string>> DescribeGpus() {
  LONGSPAN_ASSIGN_OR_RETURN(const int devices, cuda::CountDevices());
  std::vector<std::string> texts;
  for (int device = 0; device < devices; ++device) {
    const absl::StatusOr<cuda::DeviceInfo> info = cuda::UseDevice(device);
    if (absl::IsUnimplemented(info.status())) {
      texts.push_back(absl::StrCat("not supported: ", info.status().message()));
      continue;
    }
    LONGSPAN_RETURN_IF_ERROR(info.status());
    LONGSPAN_ASSIGN_OR_RETURN(const cuda::MemoryInfo memory, cuda::FreeMemory());
    texts.push_back(absl::StrCat(info->name, ", ", FormatBytes(memory.total), " (",
                                 FormatBytes(memory.free), " free)"));
  }
  return texts;
}

absl::StatusOr<int> UseFirstGpu(int ranks_on_host) {
  LONGSPAN_ASSIGN_OR_RETURN(const int devices, cuda::CountDevices());
  if (devices == 0) return NoGpu();
  for (int device = std::min(devices, ranks_on_host) - 1; device >= 0; --device) {
    LONGSPAN_RETURN_IF_ERROR(cuda::UseDevice(device).status());
  }
  return (ranks_on_host + devices - 1) / devices;
}

absl::StatusOr<MemoryPlan> PlanGpuMemory(const Config& config, const ModelConfig& model,
                                         const ModelWeights& weights,
                                         const AttentionContext& attention, int ranks_on_gpu,
                                         int ranks_on_host) {
  LONGSPAN_ASSIGN_OR_RETURN(const cuda::DeviceInfo info, cuda::CurrentDevice());
  LONGSPAN_ASSIGN_OR_RETURN(const cuda::MemoryInfo memory, cuda::FreeMemory());
  const auto sizes = [&](int64_t max_model_len) {
    Config with_length = config;
    with_length.max_model_len = max_model_len;
    return CudaSizes::Of(with_length, model, attention, ranks_on_gpu,
                         info.multiprocessors / ranks_on_gpu);
  };
  LONGSPAN_RETURN_IF_ERROR(CheckCudaLimits(config, sizes(config.max_model_len), info));
  const auto buffers = [&](int64_t tokens) { return CudaTransformer::Bytes(sizes(tokens)); };
  MemoryPlan plan;
  plan.available = memory.free / ranks_on_gpu;
  plan.weights = Granules(CudaWeights::Bytes(weights, attention.factors, sizes(0).dtype));
  const int64_t score_bytes = Granules(attention.kv.score_bytes());
  plan.page = Granules(attention.kv.kv_bytes()) + score_bytes;
  plan.host_available = AvailableMemory() / ranks_on_host;
  if (config.kv_cache_tier == "host") {
    plan.page = score_bytes;
    plan.host_page = attention.kv.kv_bytes();
  }
  plan.longest = LongestRequest(plan, config.kv_cache_memory_fraction, attention.layout, buffers);
  const int64_t tokens = config.max_model_len > 0 ? config.max_model_len : *plan.longest;
  plan.activations = buffers(std::max<int64_t>(tokens, 1));
  return plan;
}

absl::StatusOr<MemoryPlan> PlanGpuMemory(const Config& config, const Model& model) {
  return PlanGpuMemory(config, model.config, model.weights, model.attention, model.gpu->sharers,
                       model.gpu->ranks_on_host);
}

PageMemory GpuPages(const Config& config) {
  return {config.kv_cache_tier == "host" ? AllocatePinnedMemory : AllocateDeviceMemory,
          AllocateDeviceMemory, CopyGpuMemory};
}

absl::StatusOr<std::unique_ptr<Transformer>> MakeGpuTransformer(const Config& config,
                                                                const Model& model) {
  return CudaTransformer::Create(config, model.config, model.weights, model.attention,
                                 model.gpu.get());
}

}  // namespace longspan
