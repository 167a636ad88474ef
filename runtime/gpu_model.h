#ifndef LONGSPAN_RUNTIME_GPU_MODEL_H_
#define LONGSPAN_RUNTIME_GPU_MODEL_H_

#include <memory>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "collectives/communicator.h"
#include "runtime/config.h"
#include "runtime/memory_plan.h"
#include "runtime/model.h"

// What of loading a model is another matter on a GPU. Builds without CUDA have stand-ins that are
// never reached, as ResolveConfig refuses `device: cuda` there.
namespace longspan {

// The rank's GPU, opened (cuda/gpu.h). Collective.
absl::Status OpenModelGpu(const Config& config, Communicator* communicator, Model* model);

// Of device memory: what is free now. The model's files, context and GPU are there already.
absl::StatusOr<MemoryPlan> PlanGpuMemory(const Config& config, const Model& model);

// Cache pages in device memory.
AllocatePage GpuPages();

absl::StatusOr<std::unique_ptr<Transformer>> MakeGpuTransformer(const Config& config,
                                                                const Model& model);

}  // namespace longspan

#endif  // LONGSPAN_RUNTIME_GPU_MODEL_H_
