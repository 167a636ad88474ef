#include "runtime/model_config.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <nlohmann/json.hpp>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "kernels/base/status_macros.h"
#include "runtime/json_file.h"

namespace longspan {
namespace {

using Json = nlohmann::json;

constexpr size_t kMaxConfigBytes = 16 << 20;

constexpr FixedSetting kLlamaSettings[] = {
    {"hidden_act", "\"silu\""}, {"attention_bias", "false"},     {"mlp_bias", "false"},
    {"sliding_window", "null"}, {"quantization_config", "null"}, {"compression_config", "null"},
    {"pretraining_tp", "1"},    {"partial_rotary_factor", "1"},
};

const Architecture kArchitectures[] = {
    {.name = "LlamaForCausalLM",
     .tensors = {.embedding = "model.embed_tokens.weight",
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
                 .down = "mlp.down_proj.weight"},
     .fixed_settings = kLlamaSettings},
};

// A JSON value for an error message: it comes from the file and may be of any size.
std::string Excerpt(const Json& value) {
  std::string text = value.dump(-1, ' ', /*ensure_ascii=*/true, Json::error_handler_t::replace);
  if (text.size() > 100) text = text.substr(0, 100) + "...";
  return text;
}

// One JSON object of a file, read key by key. A key that is null counts as absent.
class Fields {
 public:
  // `prefix` is put before keys in messages: "rope_parameters.".
  Fields(const Json& object, std::string path, std::string prefix = "")
      : object_(object), path_(std::move(path)), prefix_(std::move(prefix)) {}

  // Null where the key is absent.
  const Json* Find(absl::string_view key) const {
    const auto found = object_.find(std::string(key));
    return found == object_.end() || found->is_null() ? nullptr : &*found;
  }

  absl::Status Invalid(absl::string_view key, absl::string_view expected) const {
    const Json* value = Find(key);
    return absl::InvalidArgumentError(absl::StrCat(path_, ": ", prefix_, key, " is ",
                                                   value ? Excerpt(*value) : "missing",
                                                   "; expected ", expected));
  }

  absl::Status Unsupported(absl::string_view key, absl::string_view supported) const {
    const Json* value = Find(key);
    return absl::UnimplementedError(absl::StrCat(path_, ": ", prefix_, key, " is ",
                                                 value ? Excerpt(*value) : "missing",
                                                 "; supported: ", supported));
  }

  // In [min, max].
  absl::StatusOr<int64_t> Integer(absl::string_view key, int64_t min, int64_t max) const {
    const Json* value = Find(key);
    const bool fits = value != nullptr && value->is_number_integer() &&
                      (!value->is_number_unsigned() ||
                       value->get<uint64_t>() <= std::numeric_limits<int64_t>::max()) &&
                      value->get<int64_t>() >= min && value->get<int64_t>() <= max;
    if (!fits) return Invalid(key, absl::StrCat("an integer from ", min, " to ", max));
    return value->get<int64_t>();
  }

  // Finite and positive.
  absl::StatusOr<double> Positive(absl::string_view key) const {
    const Json* value = Find(key);
    const double number = value != nullptr && value->is_number() ? value->get<double>() : -1;
    if (!std::isfinite(number) || number <= 0) return Invalid(key, "a positive number");
    return number;
  }

  absl::StatusOr<bool> Bool(absl::string_view key) const {
    const Json* value = Find(key);
    if (value == nullptr || !value->is_boolean()) return Invalid(key, "true or false");
    return value->get<bool>();
  }

  const std::string& path() const { return path_; }

 private:
  const Json& object_;
  std::string path_;
  std::string prefix_;
};

absl::StatusOr<const Architecture*> ReadArchitecture(const Fields& fields) {
  const Json* names = fields.Find("architectures");
  if (names == nullptr || !names->is_array() || names->size() != 1 || !(*names)[0].is_string()) {
    return fields.Invalid("architectures", "a list of one name");
  }
  const Architecture* architecture = FindArchitecture((*names)[0].get<std::string>());
  if (architecture == nullptr) {
    return fields.Unsupported(
        "architectures",
        absl::StrJoin(kArchitectures, ", ", [](std::string* out, const Architecture& known) {
          absl::StrAppend(out, known.name);
        }));
  }
  for (const FixedSetting& setting : architecture->fixed_settings) {
    const Json* value = fields.Find(setting.key);
    if (value != nullptr && *value != Json::parse(setting.value.begin(), setting.value.end())) {
      return fields.Unsupported(setting.key, setting.value);
    }
  }
  return architecture;
}

absl::Status ReadSizes(const Fields& fields, ModelConfig* config) {
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
  if (fields.Find("num_key_value_heads") != nullptr) {
    LONGSPAN_ASSIGN_OR_RETURN(config->num_kv_heads,
                              fields.Integer("num_key_value_heads", 1, config->num_heads));
  }
  if (config->num_heads % config->num_kv_heads != 0) {
    return fields.Invalid("num_key_value_heads",
                          absl::StrCat("a divisor of num_attention_heads, ", config->num_heads));
  }
  if (fields.Find("head_dim") != nullptr) {
    LONGSPAN_ASSIGN_OR_RETURN(config->head_dim, fields.Integer("head_dim", 2, 4096));
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

// The type of a RoPE block: `rope_type`, or `type` in older files.
absl::Status CheckRopeType(const Fields& rope, bool required) {
  const absl::string_view key =
      rope.Find("rope_type") == nullptr && rope.Find("type") != nullptr ? "type" : "rope_type";
  const Json* type = rope.Find(key);
  if (type == nullptr && !required) return absl::OkStatus();
  if (type == nullptr || !type->is_string()) return rope.Invalid(key, "the name of a RoPE type");
  if (*type != "default") return rope.Unsupported(key, "\"default\"");
  return absl::OkStatus();
}

// Older files have `rope_theta` and, for scaled RoPE, `rope_scaling`; newer ones have
// `rope_parameters` with both. Absent means the library's default, theta 10000.
absl::StatusOr<RopeConfig> ReadRope(const Fields& fields) {
  RopeConfig rope;
  const bool has_theta = fields.Find("rope_theta") != nullptr;
  if (has_theta) {
    LONGSPAN_ASSIGN_OR_RETURN(rope.theta, fields.Positive("rope_theta"));
  }
  for (const absl::string_view key : {"rope_scaling", "rope_parameters"}) {
    const Json* object = fields.Find(key);
    if (object == nullptr) continue;
    if (!object->is_object()) return fields.Invalid(key, "an object or null");
    const Fields block(*object, fields.path(), absl::StrCat(key, "."));
    if (std::any_of(object->begin(), object->end(), [](const Json& v) { return v.is_object(); })) {
      return fields.Unsupported(key, "the same RoPE in every layer");
    }
    LONGSPAN_RETURN_IF_ERROR(CheckRopeType(block, /*required=*/key == "rope_scaling"));
    const Json* rotary_share = block.Find("partial_rotary_factor");
    if (rotary_share != nullptr && *rotary_share != 1) {
      return block.Unsupported("partial_rotary_factor", "1");
    }
    if (block.Find("rope_theta") == nullptr) continue;
    LONGSPAN_ASSIGN_OR_RETURN(const double theta, block.Positive("rope_theta"));
    if (has_theta && theta != rope.theta) {
      return block.Invalid("rope_theta", absl::StrCat(rope.theta, ", as rope_theta outside says"));
    }
    rope.theta = theta;
  }
  return rope;
}

absl::StatusOr<DType> ReadDType(const Fields& fields) {
  const absl::string_view key = fields.Find("dtype") != nullptr ? "dtype" : "torch_dtype";
  const Json* value = fields.Find(key);
  if (value == nullptr) return DType::kFloat32;
  for (const DType dtype : {DType::kFloat32, DType::kBFloat16, DType::kFloat16}) {
    if (*value == std::string(DTypeName(dtype))) return dtype;
  }
  return fields.Unsupported(key, "float32, bfloat16, float16");
}

absl::Status ReadTokenIds(const Fields& fields, ModelConfig* config) {
  const int64_t last = config->vocab_size - 1;
  if (fields.Find("bos_token_id") != nullptr) {
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

const Architecture* FindArchitecture(absl::string_view name) {
  const auto* found =
      std::find_if(std::begin(kArchitectures), std::end(kArchitectures),
                   [name](const Architecture& known) { return known.name == name; });
  return found == std::end(kArchitectures) ? nullptr : found;
}

absl::StatusOr<ModelConfig> LoadModelConfig(const std::string& model_dir) {
  const std::string path = absl::StrCat(model_dir, "/config.json");
  LONGSPAN_ASSIGN_OR_RETURN(const Json json, ReadJsonObject(path, kMaxConfigBytes));
  const Fields fields(json, path);

  ModelConfig config;
  LONGSPAN_ASSIGN_OR_RETURN(const Architecture* architecture, ReadArchitecture(fields));
  config.architecture = std::string(architecture->name);
  LONGSPAN_RETURN_IF_ERROR(ReadSizes(fields, &config));
  LONGSPAN_ASSIGN_OR_RETURN(config.rope, ReadRope(fields));
  LONGSPAN_ASSIGN_OR_RETURN(config.dtype, ReadDType(fields));
  if (fields.Find("rms_norm_eps") != nullptr) {
    LONGSPAN_ASSIGN_OR_RETURN(config.rms_norm_eps, fields.Positive("rms_norm_eps"));
  }
  if (fields.Find("tie_word_embeddings") != nullptr) {
    LONGSPAN_ASSIGN_OR_RETURN(config.tie_word_embeddings, fields.Bool("tie_word_embeddings"));
  }
  LONGSPAN_RETURN_IF_ERROR(ReadTokenIds(fields, &config));

  const std::string generation_path = absl::StrCat(model_dir, "/generation_config.json");
  absl::StatusOr<Json> generation = ReadJsonObject(generation_path, kMaxConfigBytes);
  if (absl::IsNotFound(generation.status())) return config;
  LONGSPAN_RETURN_IF_ERROR(generation.status());
  LONGSPAN_RETURN_IF_ERROR(ReadTokenIds(Fields(*generation, generation_path), &config));
  return config;
}

}  // namespace longspan
