#ifndef LONGSPAN_RUNTIME_JOB_SHAPE_H_
#define LONGSPAN_RUNTIME_JOB_SHAPE_H_

#include "kernels/base/dtype.h"
#include "runtime/config.h"
#include "runtime/model_config.h"
#include "sharding/layer_program.h"
#include "sharding/model_work.h"

namespace longspan {

// Of the weights that products read: as they are on the CPU, what it computes in on a GPU.
// `config.dtype` is settled.
DType WeightDType(const Config& config, const ModelConfig& model);

// What the work of a run follows from. `config` is resolved for `ranks`, and its dtype settled.
ModelShape MakeModelShape(const Config& config, const ModelConfig& model, int ranks);

// What predictions and simulations of a run follow from. `config` is resolved for `ranks`; `dtype:
// auto` counts as float32 on a CPU and bfloat16 on a GPU. Needs no weights.
JobShape MakeJobShape(const Config& config, const ModelConfig& model, int ranks);

}  // namespace longspan

#endif  // LONGSPAN_RUNTIME_JOB_SHAPE_H_
