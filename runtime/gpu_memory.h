#ifndef LONGSPAN_RUNTIME_GPU_MEMORY_H_
#define LONGSPAN_RUNTIME_GPU_MEMORY_H_

#include <cstdint>

#include "runtime/config.h"
#include "runtime/memory_plan.h"
#include "runtime/model_config.h"

namespace longspan {

// About what PlanGpuMemory says, for builds without CUDA and machines without the GPU: the large
// buffers of cuda/cuda_buffers.h, without the workspaces of kernels and libraries but for one that
// grows with the context. `config` is resolved and has its dtype; each rank has a GPU of its own.
// `parameters` are the model's; `max_tokens` stands for max_model_len. What there is stays 0.
MemoryPlan EstimateGpuMemory(const Config& config, const ModelConfig& model, int ranks,
                             int64_t parameters, int64_t max_tokens);

}  // namespace longspan

#endif  // LONGSPAN_RUNTIME_GPU_MEMORY_H_
