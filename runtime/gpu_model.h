#ifndef LONGSPAN_RUNTIME_GPU_MODEL_H_
#define LONGSPAN_RUNTIME_GPU_MODEL_H_

#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "collectives/communicator.h"
#include "runtime/config.h"
#include "runtime/memory_plan.h"
#include "runtime/model.h"

// What of loading a model is another matter on a GPU. Builds without CUDA have stand-ins that are
// never reached, as ResolveConfig refuses `device: cuda` there.
namespace longspan {

// The rank's GPU, opened (cuda/gpu.h), with a communicator among the ranks of the model's
// attention. Collective over all ranks of the job.
absl::Status OpenModelGpu(const Config& config, Communicator* communicator, Model* model);

// "NVIDIA H200, 143.8 GB (140.1 GB free)" of each GPU of this host, or why it is not supported;
// none where there is none.
absl::StatusOr<std::vector<std::string>> DescribeGpus();
// Makes the first GPU the calling thread's, and says how many ranks of a host with so many would
// share it. Unavailable: there is none. Unimplemented: one that these ranks would use is not
// supported.
absl::StatusOr<int> UseFirstGpu(int ranks_on_host);

// Of device memory: what is free now on the GPU in use. Refuses what its kernels do not take
// (cuda/cuda_limits.h).
absl::StatusOr<MemoryPlan> PlanGpuMemory(const Config& config, const ModelConfig& model,
                                         const ModelWeights& weights,
                                         const AttentionContext& attention, int ranks_on_gpu,
                                         int ranks_on_host);
// The same of an opened model.
absl::StatusOr<MemoryPlan> PlanGpuMemory(const Config& config, const Model& model);

// Where `kv_cache.tier` wants a page's parts.
PageMemory GpuPages(const Config& config);

absl::StatusOr<std::unique_ptr<Transformer>> MakeGpuTransformer(const Config& config,
                                                                const Model& model);

}  // namespace longspan

#endif  // LONGSPAN_RUNTIME_GPU_MODEL_H_
