#include "runtime/model_config.h"

#include <nlohmann/json.hpp>

#include "absl/strings/str_cat.h"
#include "tests/runtime/file_testing.h"

namespace longspan {
namespace {

using longspan::testing::Fails;
using longspan::testing::IsOk;
using longspan::testing::ModelPath;
using longspan::testing::Mutate;
using longspan::testing::TempDir;
using longspan::testing::WriteFile;
using ::testing::ElementsAre;
using ::testing::IsEmpty;

using Code = absl::StatusCode;
using Json = nlohmann::json;

Json BaseConfig() {
  return Json::parse(R"({"architectures": ["LlamaForCausalLM"], "vocab_size": 1000,
      "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2,
      "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 512})");
}

class ModelConfigTest : public ::testing::Test {
 protected:
  absl::StatusOr<ModelConfig> Load(const Json& json) {
    WriteFile(dir_ / "config.json", json.dump());
    return LoadModelConfig(dir_.path());
  }
  // The base with one key changed, or removed if the value is discarded.
  absl::StatusOr<ModelConfig> LoadWith(const std::string& key, const Json& value) {
    Json json = BaseConfig();
    json[key] = value;
    return Load(json);
  }
  absl::StatusOr<ModelConfig> LoadWithout(const std::string& key) {
    Json json = BaseConfig();
    json.erase(key);
    return Load(json);
  }

  TempDir dir_;
};

TEST_F(ModelConfigTest, ReadsTheOlderForm) {
  const absl::StatusOr<ModelConfig> config = LoadModelConfig(ModelPath("llama_f32_tied"));
  ASSERT_THAT(config, IsOk());
  EXPECT_EQ(config->architecture, "LlamaForCausalLM");
  EXPECT_EQ(config->vocab_size, 300);
  EXPECT_EQ(config->hidden_size, 64);
  EXPECT_EQ(config->intermediate_size, 96);
  EXPECT_EQ(config->num_layers, 2);
  EXPECT_EQ(config->num_heads, 4);
  EXPECT_EQ(config->num_kv_heads, 2);
  EXPECT_EQ(config->head_dim, 16);
  EXPECT_EQ(config->rms_norm_eps, 1e-6);
  EXPECT_EQ(config->rope.theta, 20000);
  EXPECT_TRUE(config->tie_word_embeddings);
  EXPECT_EQ(config->max_position_embeddings, 512);
  EXPECT_THAT(config->eos_token_ids, ElementsAre(2));
  EXPECT_EQ(config->bos_token_id, 1);
  EXPECT_EQ(config->dtype, DType::kFloat32);
}

TEST_F(ModelConfigTest, ReadsTheNewerForm) {
  const absl::StatusOr<ModelConfig> config = LoadModelConfig(ModelPath("llama_bf16_sharded"));
  ASSERT_THAT(config, IsOk());
  EXPECT_EQ(config->head_dim, 32);
  EXPECT_EQ(config->rms_norm_eps, 1e-5);
  EXPECT_EQ(config->rope.theta, 500000);
  EXPECT_FALSE(config->tie_word_embeddings);
  EXPECT_THAT(config->eos_token_ids, ElementsAre(2, 299));
  EXPECT_EQ(config->bos_token_id, 0);
  EXPECT_EQ(config->dtype, DType::kBFloat16);
}

TEST_F(ModelConfigTest, AcceptsAModelWithoutTokenIds) {
  const absl::StatusOr<ModelConfig> config = LoadModelConfig(ModelPath("llama_f16"));
  ASSERT_THAT(config, IsOk());
  EXPECT_EQ(config->num_kv_heads, 1);
  EXPECT_EQ(config->dtype, DType::kFloat16);
  EXPECT_THAT(config->eos_token_ids, IsEmpty());
  EXPECT_FALSE(config->bos_token_id.has_value());
}

TEST_F(ModelConfigTest, FillsInTheLibrarysDefaults) {
  Json json = BaseConfig();
  json.erase("num_key_value_heads");
  const absl::StatusOr<ModelConfig> config = Load(json);
  ASSERT_THAT(config, IsOk());
  EXPECT_EQ(config->num_kv_heads, 4);
  EXPECT_EQ(config->head_dim, 16);
  EXPECT_EQ(config->rms_norm_eps, 1e-6);
  EXPECT_EQ(config->rope.theta, 10000);
  EXPECT_FALSE(config->tie_word_embeddings);
  EXPECT_EQ(config->dtype, DType::kFloat32);
}

TEST_F(ModelConfigTest, GenerationConfigWins) {
  Json json = BaseConfig();
  json["eos_token_id"] = {1, 2};
  json["bos_token_id"] = 3;
  WriteFile(dir_ / "generation_config.json", R"({"eos_token_id": 7, "bos_token_id": null})");
  const absl::StatusOr<ModelConfig> config = Load(json);
  ASSERT_THAT(config, IsOk());
  EXPECT_THAT(config->eos_token_ids, ElementsAre(7));
  EXPECT_EQ(config->bos_token_id, 3);
  WriteFile(dir_ / "generation_config.json", "{");
  EXPECT_THAT(Load(json), Fails(Code::kInvalidArgument, dir_ / "generation_config.json"));
  WriteFile(dir_ / "generation_config.json", R"({"eos_token_id": 1000})");
  EXPECT_THAT(Load(json), Fails(Code::kInvalidArgument, dir_ / "generation_config.json"));
}

TEST_F(ModelConfigTest, ReadsEveryWayOfWritingRope) {
  const std::pair<Json, double> cases[] = {
      {{{"rope_theta", 5000}}, 5000},
      {{{"rope_theta", 5000.5}, {"rope_scaling", nullptr}}, 5000.5},
      {{{"rope_theta", 5000}, {"rope_scaling", {{"type", "default"}}}}, 5000},
      {{{"rope_scaling", {{"rope_type", "default"}}}}, 10000},
      {{{"rope_parameters", {{"rope_type", "default"}, {"rope_theta", 7e6}}}}, 7e6},
      {{{"rope_parameters", {{"rope_theta", 7e6}}}, {"rope_theta", 7e6}}, 7e6},
      {{{"rope_parameters", {{"partial_rotary_factor", 1.0}}}}, 10000},
  };
  for (const auto& [patch, theta] : cases) {
    SCOPED_TRACE(patch.dump());
    Json json = BaseConfig();
    json.update(patch);
    const absl::StatusOr<ModelConfig> config = Load(json);
    ASSERT_THAT(config, IsOk());
    EXPECT_EQ(config->rope.theta, theta);
  }
}

TEST_F(ModelConfigTest, ReadsRopeScaling) {
  const absl::StatusOr<ModelConfig> linear = LoadModelConfig(ModelPath("llama_bias_linear"));
  ASSERT_THAT(linear, IsOk());
  EXPECT_EQ(linear->rope.scaling, RopeScaling::kLinear);
  EXPECT_EQ(linear->rope.factor, 4);
  for (const char* name : {"llama31", "llama32_tied"}) {  // the older form and the newer
    const absl::StatusOr<ModelConfig> llama = LoadModelConfig(ModelPath(name));
    ASSERT_THAT(llama, IsOk());
    EXPECT_EQ(llama->rope.scaling, RopeScaling::kLlama3);
    EXPECT_EQ(llama->rope.theta, 500000);
    EXPECT_EQ(llama->rope.low_freq_factor, 1);
    EXPECT_EQ(llama->rope.high_freq_factor, 4);
    EXPECT_EQ(llama->rope.original_context, 512);
  }
  const absl::StatusOr<ModelConfig> yarn = LoadModelConfig(ModelPath("qwen3_yarn"));
  ASSERT_THAT(yarn, IsOk());
  EXPECT_EQ(yarn->rope.scaling, RopeScaling::kYarn);
  EXPECT_EQ(yarn->rope.beta_fast, 16);
  EXPECT_EQ(yarn->rope.beta_slow, 1);
  EXPECT_NEAR(yarn->rope.attention_factor, 1.138629, 1e-6);  // 0.1 ln 4 + 1
}

TEST_F(ModelConfigTest, FillsInWhatYarnLeavesOut) {
  absl::StatusOr<ModelConfig> config =
      LoadWith("rope_scaling", {{"rope_type", "yarn"}, {"original_max_position_embeddings", 128}});
  ASSERT_THAT(config, IsOk());
  EXPECT_EQ(config->rope.factor, 4);  // 512 / 128
  EXPECT_EQ(config->rope.beta_fast, 32);
  EXPECT_TRUE(config->rope.truncate);
  config = LoadWith("rope_scaling", {{"rope_type", "yarn"}, {"factor", 2}, {"truncate", false}});
  ASSERT_THAT(config, IsOk());
  EXPECT_EQ(config->rope.original_context, 512);
  EXPECT_FALSE(config->rope.truncate);
  config = LoadWith(
      "rope_scaling",
      {{"rope_type", "yarn"}, {"factor", 40}, {"mscale", 0.707}, {"mscale_all_dim", 0.707}});
  ASSERT_THAT(config, IsOk());
  EXPECT_EQ(config->rope.attention_factor, 1);
  config =
      LoadWith("rope_scaling", {{"rope_type", "yarn"}, {"factor", 2}, {"attention_factor", 1.5}});
  ASSERT_THAT(config, IsOk());
  EXPECT_EQ(config->rope.attention_factor, 1.5);
}

TEST_F(ModelConfigTest, RefusesOtherRopeByName) {
  for (const char* type : {"dynamic", "longrope", "su", "mrope"}) {
    const std::string name = absl::StrCat("\"", type, "\"");
    EXPECT_THAT(LoadWith("rope_scaling", {{"type", type}, {"factor", 8}}),
                Fails(Code::kUnimplemented, "rope_scaling.type is " + name));
    EXPECT_THAT(LoadWith("rope_scaling", {{"rope_type", type}, {"factor", 8}}),
                Fails(Code::kUnimplemented, "rope_scaling.rope_type is " + name));
    EXPECT_THAT(LoadWith("rope_parameters", {{"rope_type", type}, {"rope_theta", 1e4}}),
                Fails(Code::kUnimplemented, "supported: default, linear, llama3, yarn"));
  }
  EXPECT_THAT(LoadWith("rope_parameters", {{"partial_rotary_factor", 0.5}}),
              Fails(Code::kUnimplemented, "partial_rotary_factor is 0.5"));
  EXPECT_THAT(LoadWith("rope_parameters", {{"full_attention", {{"rope_theta", 1e4}}}}),
              Fails(Code::kUnimplemented, "the same RoPE in every layer"));
}

TEST_F(ModelConfigTest, RefusesMalformedScaling) {
  EXPECT_THAT(LoadWith("rope_scaling", {{"type", "linear"}}),
              Fails(Code::kInvalidArgument, "rope_scaling.factor is missing"));
  EXPECT_THAT(LoadWith("rope_scaling", {{"type", "linear"}, {"factor", 0}}),
              Fails(Code::kInvalidArgument, "rope_scaling.factor is 0"));
  Json llama3 = {{"rope_type", "llama3"}, {"factor", 8}, {"low_freq_factor", 4}};
  EXPECT_THAT(LoadWith("rope_scaling", llama3),
              Fails(Code::kInvalidArgument, "high_freq_factor is missing"));
  llama3["high_freq_factor"] = 4;
  EXPECT_THAT(LoadWith("rope_scaling", llama3),
              Fails(Code::kInvalidArgument, "more than low_freq_factor"));
  llama3["original_max_position_embeddings"] = "8k";
  EXPECT_THAT(LoadWith("rope_scaling", llama3),
              Fails(Code::kInvalidArgument, "original_max_position_embeddings is \"8k\""));
  EXPECT_THAT(LoadWith("rope_scaling", {{"rope_type", "yarn"}, {"truncate", 1}}),
              Fails(Code::kInvalidArgument, "truncate is 1"));
  EXPECT_THAT(LoadWith("rope_parameters", {{"rope_type", "yarn"}, {"rope_theta", 1}}),
              Fails(Code::kUnimplemented, "more than 1"));
}

TEST_F(ModelConfigTest, FamiliesDifferAsTheTableSays) {
  const struct {
    const char* fixture;
    bool qkv_bias, output_bias, qk_norm;
    int64_t head_dim;
  } cases[] = {
      {"llama2", false, false, false, 12},  {"llama_bias_linear", true, true, false, 12},
      {"llama31", false, false, false, 32}, {"mistral", false, false, false, 16},
      {"qwen2", true, false, false, 12},    {"qwen3", false, false, true, 32},
      {"qwen3_yarn", true, true, true, 32},
  };
  for (const auto& expected : cases) {
    SCOPED_TRACE(expected.fixture);
    const absl::StatusOr<ModelConfig> config = LoadModelConfig(ModelPath(expected.fixture));
    ASSERT_THAT(config, IsOk());
    EXPECT_EQ(config->qkv_bias, expected.qkv_bias);
    EXPECT_EQ(config->output_bias, expected.output_bias);
    EXPECT_EQ(config->qk_norm, expected.qk_norm);
    EXPECT_EQ(config->head_dim, expected.head_dim);
  }
}

TEST_F(ModelConfigTest, RefusesSlidingWindows) {
  Json mistral = BaseConfig();
  mistral["architectures"] = {"MistralForCausalLM"};
  EXPECT_THAT(Load(mistral), Fails(Code::kUnimplemented, "sliding_window is missing"));
  mistral["sliding_window"] = 4096;
  EXPECT_THAT(Load(mistral), Fails(Code::kUnimplemented, "sliding_window is 4096"));
  mistral["sliding_window"] = nullptr;
  EXPECT_THAT(Load(mistral), IsOk());
  mistral["attention_bias"] = true;
  EXPECT_THAT(Load(mistral), Fails(Code::kUnimplemented, "attention_bias is true"));
  for (const char* name : {"Qwen2ForCausalLM", "Qwen3ForCausalLM"}) {
    Json qwen = BaseConfig();
    qwen["architectures"] = {name};
    qwen["sliding_window"] = 4096;  // says nothing as long as it is off
    EXPECT_THAT(Load(qwen), IsOk());
    qwen["use_sliding_window"] = true;
    EXPECT_THAT(Load(qwen), Fails(Code::kUnimplemented, "use_sliding_window is true"));
    qwen["use_sliding_window"] = false;
    qwen["layer_types"] = {"full_attention", "full_attention"};
    EXPECT_THAT(Load(qwen), IsOk());
    qwen["layer_types"] = {"full_attention", "sliding_attention"};
    EXPECT_THAT(Load(qwen), Fails(Code::kUnimplemented, "layer_types is"));
    qwen.erase("layer_types");
    qwen.erase("num_key_value_heads");
    EXPECT_THAT(Load(qwen), Fails(Code::kInvalidArgument, "num_key_value_heads is missing"));
  }
}

TEST_F(ModelConfigTest, RefusesMalformedRope) {
  EXPECT_THAT(LoadWith("rope_scaling", {{"factor", 8}}),
              Fails(Code::kInvalidArgument, "rope_scaling.rope_type is missing"));
  EXPECT_THAT(LoadWith("rope_scaling", 8), Fails(Code::kInvalidArgument, "rope_scaling is 8"));
  EXPECT_THAT(LoadWith("rope_parameters", {{"rope_type", 1}}),
              Fails(Code::kInvalidArgument, "rope_parameters.rope_type is 1"));
  for (const Json& theta : {Json(0), Json(-1), Json("1e4"), Json(true), Json::array()}) {
    EXPECT_THAT(LoadWith("rope_theta", theta), Fails(Code::kInvalidArgument, "rope_theta is"));
    EXPECT_THAT(LoadWith("rope_parameters", {{"rope_theta", theta}}),
                Fails(Code::kInvalidArgument, "rope_parameters.rope_theta is"));
  }
  Json json = BaseConfig();
  json["rope_theta"] = 1;
  json["rope_parameters"]["rope_theta"] = 2;
  EXPECT_THAT(Load(json), Fails(Code::kInvalidArgument, "as rope_theta outside says"));
}

TEST_F(ModelConfigTest, RefusesUnsupportedFeaturesByName) {
  const std::pair<const char*, Json> cases[] = {
      {"mlp_bias", true},
      {"hidden_act", "gelu"},
      {"sliding_window", 4096},
      {"quantization_config", {{"quant_method", "gptq"}}},
      {"compression_config", {{"format", "pack-quantized"}}},
      {"pretraining_tp", 2},
      {"partial_rotary_factor", 0.5},
  };
  for (const auto& [key, value] : cases) {
    EXPECT_THAT(LoadWith(key, value), Fails(Code::kUnimplemented, absl::StrCat(": ", key, " is ")));
    EXPECT_THAT(LoadWith(key, nullptr), IsOk());
  }
  EXPECT_THAT(LoadWith("architectures", {"MambaForCausalLM"}),
              Fails(Code::kUnimplemented,
                    "supported: LlamaForCausalLM, MistralForCausalLM, Qwen2ForCausalLM, "
                    "Qwen3ForCausalLM"));
  EXPECT_THAT(LoadWith("torch_dtype", "float8_e4m3fn"),
              Fails(Code::kUnimplemented, "torch_dtype is \"float8_e4m3fn\""));
  EXPECT_THAT(LoadWith("dtype", "int8"), Fails(Code::kUnimplemented, "dtype is \"int8\""));
}

TEST_F(ModelConfigTest, RefusesSizesOutOfRange) {
  for (const char* key : {"vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers",
                          "num_attention_heads", "max_position_embeddings"}) {
    EXPECT_THAT(LoadWithout(key), Fails(Code::kInvalidArgument, absl::StrCat(key, " is missing")));
    for (const Json& value : {Json(0), Json(-1), Json(2.0), Json("2"), Json(true), Json::array(),
                              Json(INT64_MAX), Json(UINT64_MAX), Json(INT64_MIN)}) {
      EXPECT_THAT(LoadWith(key, value), Fails(Code::kInvalidArgument, absl::StrCat(key, " is ")));
    }
  }
}

TEST_F(ModelConfigTest, RefusesValuesThatContradict) {
  EXPECT_THAT(LoadWith("num_key_value_heads", 3), Fails(Code::kInvalidArgument, "a divisor of"));
  EXPECT_THAT(LoadWith("num_key_value_heads", 8),
              Fails(Code::kInvalidArgument, "num_key_value_heads is 8"));
  EXPECT_THAT(LoadWith("hidden_size", 66), Fails(Code::kInvalidArgument, "head_dim is missing"));
  EXPECT_THAT(LoadWith("hidden_size", 60), Fails(Code::kInvalidArgument, "even number"));
  EXPECT_THAT(LoadWith("head_dim", 7), Fails(Code::kInvalidArgument, "even number"));
  EXPECT_THAT(LoadWith("head_dim", 0), Fails(Code::kInvalidArgument, "head_dim is 0"));
  EXPECT_THAT(LoadWith("rms_norm_eps", -1e-6), Fails(Code::kInvalidArgument, "rms_norm_eps"));
  EXPECT_THAT(LoadWith("tie_word_embeddings", 1), Fails(Code::kInvalidArgument, "true or false"));
  for (const Json& eos : {Json(-1), Json(1000), Json(1.0), Json("2"), Json({1, nullptr}),
                          Json({{1}}), Json(UINT64_MAX)}) {
    EXPECT_THAT(LoadWith("eos_token_id", eos), Fails(Code::kInvalidArgument, "eos_token_id is"));
  }
  EXPECT_THAT(LoadWith("bos_token_id", 1000), Fails(Code::kInvalidArgument, "bos_token_id is"));
  for (const Json& names : {Json(), Json("LlamaForCausalLM"), Json::array(), Json({1}),
                            Json({"LlamaForCausalLM", "LlamaModel"})}) {
    EXPECT_THAT(LoadWith("architectures", names),
                Fails(Code::kInvalidArgument, "architectures is"));
  }
}

TEST_F(ModelConfigTest, RefusesWhatIsNoConfig) {
  EXPECT_THAT(LoadModelConfig(dir_.path()), Fails(Code::kNotFound, dir_ / "config.json"));
  const std::pair<std::string, const char*> cases[] = {
      {"", "not valid JSON"},
      {"{", "not valid JSON"},
      {"{\"a\": NaN}", "not valid JSON"},
      {"{\"a\": 1e999}", "out of range"},
      {"{\"\xff\": 1}", "not valid JSON"},
      {"[]", "expected a JSON object"},
      {"null", "expected a JSON object"},
      {"{\"a\":" + std::string(100'000, '[') + std::string(100'000, ']') + "}", "nested deeper"},
      {std::string(100'000, '['), "nested deeper"},
      {std::string((16 << 20) + 1, ' '), "over the limit"},
  };
  for (const auto& [text, message] : cases) {
    WriteFile(dir_ / "config.json", text);
    EXPECT_THAT(LoadModelConfig(dir_.path()), Fails(Code::kInvalidArgument, message));
  }
}

TEST_F(ModelConfigTest, RandomDamageIsRefusedOrHarmless) {
  Json json = BaseConfig();
  json["rope_parameters"] = {{"rope_type", "default"}, {"rope_theta", 10000.0}};
  json["eos_token_id"] = {1, 2};
  const std::string text = json.dump();
  std::mt19937_64 random(2);
  int loaded = 0;
  for (int round = 0; round < 5000; ++round) {
    WriteFile(dir_ / "config.json", Mutate(text, text.size(), &random));
    const absl::StatusOr<ModelConfig> config = LoadModelConfig(dir_.path());
    if (!config.ok()) continue;
    ++loaded;
    ASSERT_GT(config->num_kv_heads, 0);
    ASSERT_EQ(config->num_heads % config->num_kv_heads, 0);
    ASSERT_EQ(config->head_dim % 2, 0);
    ASSERT_GT(config->rope.theta, 0);
    for (const int32_t id : config->eos_token_ids) ASSERT_LT(id, config->vocab_size);
  }
  EXPECT_GT(loaded, 0);
  EXPECT_LT(loaded, 5000);
}

}  // namespace
}  // namespace longspan
