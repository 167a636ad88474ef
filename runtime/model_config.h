#ifndef LONGSPAN_RUNTIME_MODEL_CONFIG_H_
#define LONGSPAN_RUNTIME_MODEL_CONFIG_H_

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "kernels/base/dtype.h"
#include "runtime/rope_config.h"

namespace longspan {

// What config.json and generation_config.json say of a model. Validated: sizes are positive and
// bounded, num_heads is a multiple of num_kv_heads, head_dim is even, token ids are in range.
struct ModelConfig {
  std::string architecture;  // "LlamaForCausalLM"
  int64_t vocab_size = 0;
  int64_t hidden_size = 0;
  int64_t intermediate_size = 0;
  int64_t num_layers = 0;
  int64_t num_heads = 0;
  int64_t num_kv_heads = 0;
  int64_t head_dim = 0;  // num_heads * head_dim need not be hidden_size
  double rms_norm_eps = 1e-6;
  RopeConfig rope;
  bool tie_word_embeddings = false;
  bool qkv_bias = false;                // queries, keys and values have biases
  bool output_bias = false;             // and so has what attention puts out
  bool qk_norm = false;                 // RMSNorm over each head of queries and keys, before RoPE
  int64_t max_position_embeddings = 0;  // the trained context, in tokens
  std::vector<int32_t> eos_token_ids;   // any of them ends a sequence; may be empty
  std::optional<int32_t> bos_token_id;
  DType dtype = DType::kFloat32;  // as stated; each tensor of the weights has its own
};

// Names of an architecture's tensors in its checkpoints.
struct TensorNames {
  absl::string_view embedding;
  absl::string_view final_norm;
  absl::string_view lm_head;       // absent from tied checkpoints
  absl::string_view layer_prefix;  // + layer number + '.' + one of the following
  absl::string_view attention_norm;
  absl::string_view query;
  absl::string_view key;
  absl::string_view value;
  absl::string_view output;
  absl::string_view mlp_norm;
  absl::string_view gate;
  absl::string_view up;
  absl::string_view down;
  // Of the architectures and configs that have them.
  absl::string_view query_bias;
  absl::string_view key_bias;
  absl::string_view value_bias;
  absl::string_view output_bias;
  absl::string_view query_norm;
  absl::string_view key_norm;
};

// A key of config.json with a value that it must have to be supported.
struct FixedSetting {
  absl::string_view key;
  absl::string_view value;  // JSON
  bool if_absent = true;    // absent or null is as good
};

// Where an architecture has attention biases.
enum class AttentionBias {
  kNone,
  kQkv,        // queries, keys, values
  kAsSetting,  // where `attention_bias` is true: those, and the output
};

// The one place where an architecture is described: how the families differ.
struct Architecture {
  absl::string_view name;    // in `architectures` of config.json
  absl::string_view models;  // for people
  AttentionBias bias = AttentionBias::kNone;
  bool qk_norm = false;
  int64_t head_dim = 0;          // if the config states none; 0: hidden_size / heads
  bool states_kv_heads = false;  // num_key_value_heads must be stated: its default is odd
  absl::Span<const FixedSetting> fixed_settings;
  TensorNames tensors;
};

absl::Span<const Architecture> Architectures();
// Null for an architecture that is not supported.
const Architecture* FindArchitecture(absl::string_view name);

// Reads config.json and, where there is one, generation_config.json, whose token ids win.
// Errors name file and key; Unimplemented for what is valid but not supported.
absl::StatusOr<ModelConfig> LoadModelConfig(const std::string& model_dir);

}  // namespace longspan

#endif  // LONGSPAN_RUNTIME_MODEL_CONFIG_H_
