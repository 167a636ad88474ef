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

namespace longspan {

// Rotary position embedding: component pair (i, i + head_dim/2) turns by
// position * theta^(-2i/head_dim).
struct RopeConfig {
  double theta = 10000;
};

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
};

// A key of config.json that may be absent or null, and otherwise must have this one value.
struct FixedSetting {
  absl::string_view key;
  absl::string_view value;  // JSON
};

// The one place where an architecture is described.
struct Architecture {
  absl::string_view name;  // in `architectures` of config.json
  TensorNames tensors;
  absl::Span<const FixedSetting> fixed_settings;
};

// Null for an architecture that is not supported.
const Architecture* FindArchitecture(absl::string_view name);

// Reads config.json and, where there is one, generation_config.json, whose token ids win.
// Errors name file and key; Unimplemented for what is valid but not supported.
absl::StatusOr<ModelConfig> LoadModelConfig(const std::string& model_dir);

}  // namespace longspan

#endif  // LONGSPAN_RUNTIME_MODEL_CONFIG_H_
