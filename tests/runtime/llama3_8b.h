#ifndef LONGSPAN_TESTS_RUNTIME_LLAMA3_8B_H_
#define LONGSPAN_TESTS_RUNTIME_LLAMA3_8B_H_

#include "runtime/model_config.h"

namespace longspan {

// The sizes of Llama 3 8B.
inline ModelConfig Llama3Of8B() {
  ModelConfig model;
  model.hidden_size = 4096;
  model.intermediate_size = 14336;
  model.num_layers = 32;
  model.num_heads = 32;
  model.num_kv_heads = 8;
  model.head_dim = 128;
  model.vocab_size = 128256;
  return model;
}

}  // namespace longspan

#endif  // LONGSPAN_TESTS_RUNTIME_LLAMA3_8B_H_
