#include "runtime/model_config.h"

#include <algorithm>
#include <nlohmann/json.hpp>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "kernels/base/status_macros.h"
#include "runtime/json_file.h"

namespace longspan {
namespace {

using Json = nlohmann::json;

constexpr size_t kMaxConfigBytes = 16 << 20;

// What the checkpoints of all families below call their tensors.
constexpr TensorNames kTensorNames = {
    .embedding = "model.embed_tokens.weight",
    .final_norm = "model.norm.weight",
    .lm_head = "lm_head.weight",
    .layer_prefix = "model.layers.",
    .attention_norm = "input_layernorm.weight",
    .query = "self_attn.q_proj.weight",
    .key = "self_attn.k_proj.weight",
    .value = "self_attn.v_proj.weight",
    .output = "self_attn.o_proj.weight",
    .mlp_norm = "post_attention_layernorm.weight",
    .gate = "mlp.gate_proj.weight",
    .up = "mlp.up_proj.weight",
    .down = "mlp.down_proj.weight",
    .query_bias = "self_attn.q_proj.bias",
    .key_bias = "self_attn.k_proj.bias",
    .value_bias = "self_attn.v_proj.bias",
    .output_bias = "self_attn.o_proj.bias",
    .query_norm = "self_attn.q_norm.weight",
    .key_norm = "self_attn.k_norm.weight",
};

// Of every family.
constexpr FixedSetting kCommonSettings[] = {
    {"hidden_act", "\"silu\""},
    {"quantization_config", "null"},
    {"compression_config", "null"},
    {"partial_rotary_factor", "1"},
};
constexpr FixedSetting kLlamaSettings[] = {
    {"mlp_bias", "false"}, {"pretraining_tp", "1"}, {"sliding_window", "null"}};
// Absent, the window would be 4,096.
constexpr FixedSetting kMistralSettings[] = {{"sliding_window", "null", /*if_absent=*/false}};
// `sliding_window` counts only if it is switched on.
constexpr FixedSetting kQwenSettings[] = {{"use_sliding_window", "false"}};

constexpr Architecture kArchitectures[] = {
    {.name = "LlamaForCausalLM",
     .models = "Llama 2, 3, 3.1, 3.2, 3.3",
     .bias = AttentionBias::kAsSetting,
     .fixed_settings = kLlamaSettings,
     .tensors = kTensorNames},
    {.name = "MistralForCausalLM",
     .models = "Mistral 7B v0.2, v0.3",
     .states_kv_heads = true,
     .fixed_settings = kMistralSettings,
     .tensors = kTensorNames},
    {.name = "Qwen2ForCausalLM",
     .models = "Qwen2, Qwen2.5",
     .bias = AttentionBias::kQkv,
     .states_kv_heads = true,
     .fixed_settings = kQwenSettings,
     .tensors = kTensorNames},
    {.name = "Qwen3ForCausalLM",
     .models = "Qwen3 (dense)",
     .bias = AttentionBias::kAsSetting,
     .qk_norm = true,
     .head_dim = 128,
     .states_kv_heads = true,
     .fixed_settings = kQwenSettings,
     .tensors = kTensorNames},
};

absl::Status CheckSettings(const JsonFields& fields, absl::Span<const FixedSetting> settings) {
  for (const FixedSetting& setting : settings) {
    const Json* value = fields.Find(setting.key);
    const Json supported = Json::parse(setting.value.begin(), setting.value.end());
    // Stated as null, it says something where its absence would say something else.
    const bool fine =
        value == nullptr ? setting.if_absent || fields.States(setting.key) : *value == supported;
    if (!fine) return fields.Unsupported(setting.key, setting.value);
  }
  return absl::OkStatus();
}

absl::Status CheckLayerTypes(const JsonFields& fields) {
  const Json* types = fields.Find("layer_types");
  if (types == nullptr) return absl::OkStatus();
  const bool full =
      types->is_array() && std::all_of(types->begin(), types->end(),
                                       [](const Json& type) { return type == "full_attention"; });
  if (!full) return fields.Unsupported("layer_types", "\"full_attention\" in every layer");
  return absl::OkStatus();
}

absl::StatusOr<const Architecture*> ReadArchitecture(const JsonFields& fields) {
  const Json* names = fields.Find("architectures");
  const bool is_one =
      names != nullptr && names->is_array() && names->size() == 1 && (*names)[0].is_string();
  const Architecture* architecture =
      is_one ? FindArchitecture((*names)[0].get<std::string>()) : nullptr;
  if (architecture == nullptr) {
    const std::string known = absl::StrJoin(
        kArchitectures, ", ",
        [](std::string* out, const Architecture& one) { absl::StrAppend(out, one.name); });
    return is_one ? fields.Unsupported("architectures", known)
                  : fields.Invalid("architectures", absl::StrCat("a list of one of ", known));
  }
  LONGSPAN_RETURN_IF_ERROR(CheckSettings(fields, kCommonSettings));
  LONGSPAN_RETURN_IF_ERROR(CheckSettings(fields, architecture->fixed_settings));
  LONGSPAN_RETURN_IF_ERROR(CheckLayerTypes(fields));
  return architecture;
}

absl::Status ReadSizes(const JsonFields& fields, const Architecture& architecture,
                       ModelConfig* config) {
  struct Size {
    absl::string_view key;
    int64_t max;
    int64_t* value;
  };
  const Size sizes[] = {
      {"vocab_size", int64_t{1} << 24, &config->vocab_size},
      {"hidden_size", int64_t{1} << 20, &config->hidden_size},
      {"intermediate_size", int64_t{1} << 22, &config->intermediate_size},
      {"num_hidden_layers", 4096, &config->num_layers},
      {"num_attention_heads", 4096, &config->num_heads},
      {"max_position_embeddings", int64_t{1} << 40, &config->max_position_embeddings},
  };
  for (const Size& size : sizes) {
    LONGSPAN_ASSIGN_OR_RETURN(*size.value, fields.Integer(size.key, 1, size.max));
  }
  config->num_kv_heads = config->num_heads;
  if (architecture.states_kv_heads || fields.Has("num_key_value_heads")) {
    LONGSPAN_ASSIGN_OR_RETURN(config->num_kv_heads,
                              fields.Integer("num_key_value_heads", 1, config->num_heads));
  }
  if (config->num_heads % config->num_kv_heads != 0) {
    return fields.Invalid("num_key_value_heads",
                          absl::StrCat("a divisor of num_attention_heads, ", config->num_heads));
  }
  if (fields.Has("head_dim")) {
    LONGSPAN_ASSIGN_OR_RETURN(config->head_dim, fields.Integer("head_dim", 2, 4096));
  } else if (architecture.head_dim > 0) {
    config->head_dim = architecture.head_dim;
  } else if (config->hidden_size % config->num_heads != 0) {
    return fields.Invalid(
        "head_dim", absl::StrCat("a number, because hidden_size ", config->hidden_size,
                                 " is no multiple of num_attention_heads ", config->num_heads));
  } else {
    config->head_dim = config->hidden_size / config->num_heads;
  }
  if (config->head_dim % 2 != 0) {
    return fields.Invalid(
        "head_dim", absl::StrCat("an even number (RoPE turns pairs), not ", config->head_dim));
  }
  return absl::OkStatus();
}

absl::Status ReadAttention(const JsonFields& fields, const Architecture& architecture,
                           ModelConfig* config) {
  LONGSPAN_ASSIGN_OR_RETURN(const bool stated, fields.BoolOr("attention_bias", false));
  if (stated && architecture.bias == AttentionBias::kNone) {
    return fields.Unsupported("attention_bias", "false");
  }
  config->qkv_bias = stated || architecture.bias == AttentionBias::kQkv;
  config->output_bias = stated && architecture.bias == AttentionBias::kAsSetting;
  config->qk_norm = architecture.qk_norm;
  return absl::OkStatus();
}

absl::StatusOr<DType> ReadDType(const JsonFields& fields) {
  const absl::string_view key = fields.Has("dtype") ? "dtype" : "torch_dtype";
  const Json* value = fields.Find(key);
  if (value == nullptr) return DType::kFloat32;
  for (const DType dtype : {DType::kFloat32, DType::kBFloat16, DType::kFloat16}) {
    if (*value == std::string(DTypeName(dtype))) return dtype;
  }
  return fields.Unsupported(key, "float32, bfloat16, float16");
}

absl::Status ReadTokenIds(const JsonFields& fields, ModelConfig* config) {
  const int64_t last = config->vocab_size - 1;
  if (fields.Has("bos_token_id")) {
    LONGSPAN_ASSIGN_OR_RETURN(const int64_t bos, fields.Integer("bos_token_id", 0, last));
    config->bos_token_id = static_cast<int32_t>(bos);
  }
  const Json* eos = fields.Find("eos_token_id");
  if (eos == nullptr) return absl::OkStatus();
  config->eos_token_ids.clear();
  const Json list = eos->is_array() ? *eos : Json::array({*eos});
  for (const Json& id : list) {
    if (!id.is_number_integer() || id < 0 || id > last) {
      return fields.Invalid("eos_token_id",
                            absl::StrCat("a token id, or a list of them, from 0 to ", last));
    }
    config->eos_token_ids.push_back(id.get<int32_t>());
  }
  return absl::OkStatus();
}

}  // namespace

absl::Span<const Architecture> Architectures() { return kArchitectures; }

const Architecture* FindArchitecture(absl::string_view name) {
  const auto* found =
      std::find_if(std::begin(kArchitectures), std::end(kArchitectures),
                   [name](const Architecture& known) { return known.name == name; });
  return found == std::end(kArchitectures) ? nullptr : found;
}

absl::StatusOr<ModelConfig> LoadModelConfig(const std::string& model_dir) {
  const std::string path = absl::StrCat(model_dir, "/config.json");
  LONGSPAN_ASSIGN_OR_RETURN(const Json json, ReadJsonObject(path, kMaxConfigBytes));
  const JsonFields fields(json, path);

  ModelConfig config;
  LONGSPAN_ASSIGN_OR_RETURN(const Architecture* architecture, ReadArchitecture(fields));
  config.architecture = std::string(architecture->name);
  LONGSPAN_RETURN_IF_ERROR(ReadSizes(fields, *architecture, &config));
  LONGSPAN_RETURN_IF_ERROR(ReadAttention(fields, *architecture, &config));
  LONGSPAN_ASSIGN_OR_RETURN(config.rope, ReadRope(fields, config.max_position_embeddings));
  LONGSPAN_ASSIGN_OR_RETURN(config.dtype, ReadDType(fields));
  LONGSPAN_ASSIGN_OR_RETURN(config.rms_norm_eps,
                            fields.PositiveOr("rms_norm_eps", config.rms_norm_eps));
  LONGSPAN_ASSIGN_OR_RETURN(config.tie_word_embeddings,
                            fields.BoolOr("tie_word_embeddings", false));
  LONGSPAN_RETURN_IF_ERROR(ReadTokenIds(fields, &config));

  const std::string generation_path = absl::StrCat(model_dir, "/generation_config.json");
  absl::StatusOr<Json> generation = ReadJsonObject(generation_path, kMaxConfigBytes);
  if (absl::IsNotFound(generation.status())) return config;
  LONGSPAN_RETURN_IF_ERROR(generation.status());
  LONGSPAN_RETURN_IF_ERROR(ReadTokenIds(JsonFields(*generation, generation_path), &config));
  return config;
}

}  // namespace longspan
