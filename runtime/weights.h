#ifndef LONGSPAN_RUNTIME_WEIGHTS_H_
#define LONGSPAN_RUNTIME_WEIGHTS_H_

#include <string>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/status/statusor.h"
#include "runtime/model_config.h"
#include "runtime/safetensors.h"

namespace longspan {

// Each tensor is float32, bfloat16 or float16 on its own account: checkpoints do mix them.
// Matrices are [outputs, inputs]: y = W x.
struct LayerWeights {
  Tensor attention_norm;  // [hidden]
  Tensor query;           // [heads*head_dim, hidden]
  Tensor key;             // [kv_heads*head_dim, hidden]
  Tensor value;           // [kv_heads*head_dim, hidden]
  Tensor output;          // [hidden, heads*head_dim]
  Tensor mlp_norm;        // [hidden]
  Tensor gate;            // [intermediate, hidden]
  Tensor up;              // [intermediate, hidden]
  Tensor down;            // [hidden, intermediate]
  // Null data where the architecture has none.
  Tensor query_bias;   // [heads*head_dim]
  Tensor key_bias;     // [kv_heads*head_dim]
  Tensor value_bias;   // [kv_heads*head_dim]
  Tensor output_bias;  // [hidden]
  Tensor query_norm;   // [head_dim]
  Tensor key_norm;     // [head_dim]
};

struct ModelWeights {
  Tensor embedding;   // [vocab, hidden]
  Tensor final_norm;  // [hidden]
  Tensor lm_head;     // [vocab, hidden]; the embedding's data when tied
  std::vector<LayerWeights> layers;
};

// Gives the tensor of a name, of that shape.
using FindTensor = absl::FunctionRef<absl::StatusOr<Tensor>(absl::string_view name,
                                                            const std::vector<int64_t>& shape)>;
// All tensors of the architecture, from wherever `find` has them.
absl::StatusOr<ModelWeights> AssembleWeights(const ModelConfig& config, FindTensor find);

// Maps model.safetensors, or the shards that model.safetensors.index.json names, and checks every
// shape against `config`. No tensor data is read. Tensors that the architecture does not know are
// ignored, except what would change the result: those of quantised checkpoints, and biases and
// layers that config.json knows nothing of.
absl::StatusOr<ModelWeights> LoadWeights(const std::string& model_dir, const ModelConfig& config);

struct WeightCounts {
  int64_t parameters = 0;
  int64_t bytes = 0;
};
WeightCounts CountWeights(const ModelWeights& weights);

// All tensors that there are, those that are tied once, in an order that depends on `weights`
// alone.
std::vector<Tensor> AllTensors(const ModelWeights& weights);

// Gives the memory of mapped weights back; they are read from the file again when needed.
void DropFromMemory(const LayerWeights& layer);

// 32 hex digits that bind a compressor to its model: a hash of what in `config` changes the
// network's function, and of every tensor's role, dtype, shape and 1,024 bytes from 16 places.
// Independent of sharding and of token ids, of the stated dtype and context. Not cryptographic.
std::string ModelFingerprint(const ModelConfig& config, const ModelWeights& weights);

}  // namespace longspan

#endif  // LONGSPAN_RUNTIME_WEIGHTS_H_
