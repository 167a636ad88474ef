#ifndef LONGSPAN_RUNTIME_JOB_SHAPE_H_
#define LONGSPAN_RUNTIME_JOB_SHAPE_H_

#include "runtime/config.h"
#include "runtime/model_config.h"
#include "sharding/layer_program.h"

namespace longspan {

// What predictions and simulations of a run follow from. `config` is resolved for `ranks`; `dtype:
// auto` counts as float32 on a CPU and bfloat16 on a GPU. Needs no weights.
JobShape MakeJobShape(const Config& config, const ModelConfig& model, int ranks);

}  // namespace longspan

#endif  // LONGSPAN_RUNTIME_JOB_SHAPE_H_
