#include "runtime/weights.h"

#include <filesystem>
#include <nlohmann/json.hpp>
#include <set>

#include "absl/strings/str_cat.h"
#include "tests/runtime/file_testing.h"

namespace longspan {
namespace {

using longspan::testing::Fails;
using longspan::testing::IsOk;
using longspan::testing::ModelPath;
using longspan::testing::Mutate;
using longspan::testing::ReadFile;
using longspan::testing::TempDir;
using longspan::testing::WriteFile;

using Code = absl::StatusCode;

// A model of one layer whose sizes all differ, so that no two shapes are equal by accident.
ModelConfig SmallConfig() {
  ModelConfig config;
  config.architecture = "LlamaForCausalLM";
  config.vocab_size = 11;
  config.hidden_size = 6;
  config.intermediate_size = 10;
  config.num_layers = 1;
  config.num_heads = 4;
  config.num_kv_heads = 2;
  config.head_dim = 2;
  return config;
}

struct SmallTensor {
  std::string name;
  std::vector<int64_t> shape;
  std::vector<float> values;
};

std::vector<SmallTensor> SmallTensors() {
  std::vector<SmallTensor> tensors = {
      {"model.embed_tokens.weight", {11, 6}, {}},
      {"model.norm.weight", {6}, {}},
      {"lm_head.weight", {11, 6}, {}},
      {"model.layers.0.input_layernorm.weight", {6}, {}},
      {"model.layers.0.self_attn.q_proj.weight", {8, 6}, {}},
      {"model.layers.0.self_attn.k_proj.weight", {4, 6}, {}},
      {"model.layers.0.self_attn.v_proj.weight", {4, 6}, {}},
      {"model.layers.0.self_attn.o_proj.weight", {6, 8}, {}},
      {"model.layers.0.post_attention_layernorm.weight", {6}, {}},
      {"model.layers.0.mlp.gate_proj.weight", {10, 6}, {}},
      {"model.layers.0.mlp.up_proj.weight", {10, 6}, {}},
      {"model.layers.0.mlp.down_proj.weight", {6, 10}, {}},
  };
  float value = 0;
  for (SmallTensor& tensor : tensors) {
    int64_t count = 1;
    for (const int64_t extent : tensor.shape) count *= extent;
    for (int64_t i = 0; i < count; ++i) tensor.values.push_back(value++);
  }
  return tensors;
}

void WriteShard(const std::string& path, absl::Span<const SmallTensor> tensors) {
  std::vector<NamedFloats> views;
  for (const SmallTensor& tensor : tensors) {
    views.push_back({tensor.name, tensor.shape, tensor.values});
  }
  ASSERT_THAT(WriteSafetensors(path, views, {}), IsOk());
}

class WeightsTest : public ::testing::Test {
 protected:
  void WriteSingle() { WriteShard(dir_ / "model.safetensors", tensors_); }

  // Tensors [0, split) and [split, end) as two shards.
  void WriteShards(size_t split) {
    const absl::Span<const SmallTensor> all(tensors_);
    WriteShard(dir_ / "one.safetensors", all.subspan(0, split));
    WriteShard(dir_ / "two.safetensors", all.subspan(split));
    for (size_t i = 0; i < all.size(); ++i) {
      index_["weight_map"][all[i].name] = i < split ? "one.safetensors" : "two.safetensors";
    }
    WriteIndex();
  }
  void WriteIndex() { WriteFile(dir_ / "model.safetensors.index.json", index_.dump()); }

  absl::StatusOr<ModelWeights> Load() { return LoadWeights(dir_.path(), config_); }
  std::string Fingerprint() {
    const absl::StatusOr<ModelWeights> weights = Load();
    EXPECT_THAT(weights, IsOk());
    return weights.ok() ? ModelFingerprint(config_, *weights) : "";
  }
  SmallTensor& TensorNamed(const std::string& name) {
    return *std::find_if(tensors_.begin(), tensors_.end(),
                         [&](const SmallTensor& tensor) { return tensor.name == name; });
  }

  TempDir dir_;
  ModelConfig config_ = SmallConfig();
  std::vector<SmallTensor> tensors_ = SmallTensors();
  nlohmann::json index_;
};

float FirstValue(const Tensor& tensor) { return *static_cast<const float*>(tensor.data); }

TEST_F(WeightsTest, FindsEveryTensor) {
  WriteSingle();
  const absl::StatusOr<ModelWeights> weights = Load();
  ASSERT_THAT(weights, IsOk());
  ASSERT_EQ(weights->layers.size(), 1u);
  const LayerWeights& layer = weights->layers[0];
  const Tensor* const found[] = {
      &weights->embedding, &weights->final_norm, &weights->lm_head, &layer.attention_norm,
      &layer.query,        &layer.key,           &layer.value,      &layer.output,
      &layer.mlp_norm,     &layer.gate,          &layer.up,         &layer.down};
  for (size_t i = 0; i < tensors_.size(); ++i) {
    EXPECT_EQ(found[i]->shape, tensors_[i].shape) << tensors_[i].name;
    EXPECT_EQ(FirstValue(*found[i]), tensors_[i].values[0]) << tensors_[i].name;
  }
}

TEST_F(WeightsTest, TiedHeadIsTheEmbedding) {
  config_.tie_word_embeddings = true;
  WriteSingle();  // has a head, which is not used
  const absl::StatusOr<ModelWeights> weights = Load();
  ASSERT_THAT(weights, IsOk());
  EXPECT_EQ(weights->lm_head.data, weights->embedding.data);
  tensors_.erase(tensors_.begin() + 2);
  WriteSingle();
  EXPECT_THAT(Load(), IsOk());
  config_.tie_word_embeddings = false;
  EXPECT_THAT(Load(), Fails(Code::kNotFound, "model.safetensors has no tensor 'lm_head.weight'"));
}

TEST_F(WeightsTest, LoadsModelsOfTheTransformersLibrary) {
  const std::pair<const char*, DType> models[] = {{"llama_f32_tied", DType::kFloat32},
                                                  {"llama_bf16_sharded", DType::kBFloat16},
                                                  {"llama_f16", DType::kFloat16}};
  std::set<std::string> fingerprints;
  for (const auto& [name, dtype] : models) {
    const absl::StatusOr<ModelConfig> config = LoadModelConfig(ModelPath(name));
    ASSERT_THAT(config, IsOk());
    const absl::StatusOr<ModelWeights> weights = LoadWeights(ModelPath(name), *config);
    ASSERT_THAT(weights, IsOk());
    EXPECT_EQ(static_cast<int64_t>(weights->layers.size()), config->num_layers);
    EXPECT_EQ(weights->embedding.dtype, dtype);
    EXPECT_EQ(weights->layers.back().down.dtype, dtype);
    fingerprints.insert(ModelFingerprint(*config, *weights));
  }
  EXPECT_EQ(fingerprints.size(), 3u);
}

TEST_F(WeightsTest, ReadsShards) {
  WriteShards(5);
  const absl::StatusOr<ModelWeights> weights = Load();
  ASSERT_THAT(weights, IsOk());
  EXPECT_EQ(FirstValue(weights->layers[0].down),
            TensorNamed("model.layers.0.mlp.down_proj.weight").values[0]);
}

TEST_F(WeightsTest, NamesWhatIsMissing) {
  EXPECT_THAT(Load(), Fails(Code::kNotFound, "has neither model.safetensors nor"));
  WriteShards(5);
  std::filesystem::remove(dir_ / "two.safetensors");
  EXPECT_THAT(Load(), Fails(Code::kNotFound, dir_ / "two.safetensors"));
  WriteShards(5);
  index_["weight_map"]["model.layers.0.mlp.up_proj.weight"] = "one.safetensors";
  WriteIndex();
  EXPECT_THAT(Load(), Fails(Code::kNotFound, "one.safetensors has no tensor 'model.layers.0.mlp."));
  index_["weight_map"].erase("model.layers.0.mlp.up_proj.weight");
  WriteIndex();
  EXPECT_THAT(Load(), Fails(Code::kNotFound,
                            "index.json has no tensor 'model.layers.0.mlp.up_proj.weight'"));
  config_.num_layers = 2;
  WriteSingle();
  EXPECT_THAT(Load(), Fails(Code::kNotFound, "'model.layers.1.input_layernorm.weight'"));
}

TEST_F(WeightsTest, RefusesShardsOutsideTheDirectory) {
  WriteShards(5);
  std::filesystem::create_directory(dir_ / "sub");
  std::filesystem::copy(dir_ / "one.safetensors", dir_ / "sub/one.safetensors");
  for (const nlohmann::json& shard :
       {nlohmann::json("../one.safetensors"), nlohmann::json(dir_ / "one.safetensors"),
        nlohmann::json("sub/one.safetensors"), nlohmann::json(".."), nlohmann::json("."),
        nlohmann::json(""), nlohmann::json(std::string("one.safetensors\0x", 17)),
        nlohmann::json("a\\b"), nlohmann::json(1), nlohmann::json()}) {
    index_["weight_map"]["model.norm.weight"] = shard;
    WriteIndex();
    EXPECT_THAT(Load(), Fails(Code::kInvalidArgument, "the shard of 'model.norm.weight'"));
  }
  index_["weight_map"] = {1};
  WriteIndex();
  EXPECT_THAT(Load(), Fails(Code::kInvalidArgument, "weight_map is not an object"));
}

TEST_F(WeightsTest, ChecksEveryShape) {
  for (size_t i = 0; i < tensors_.size(); ++i) {
    tensors_ = SmallTensors();
    tensors_[i].shape.insert(tensors_[i].shape.begin(), 1);
    WriteSingle();
    EXPECT_THAT(Load(),
                Fails(Code::kInvalidArgument, absl::StrCat("tensor '", tensors_[i].name, "'")));
  }
  tensors_ = SmallTensors();
  TensorNamed("model.layers.0.self_attn.q_proj.weight").shape = {6, 8};
  WriteSingle();
  EXPECT_THAT(Load(),
              Fails(Code::kInvalidArgument, "has shape [6, 8]; by config.json it is [8, 6]"));
}

TEST_F(WeightsTest, FindsBiasesAndHeadNorms) {
  config_.qkv_bias = config_.output_bias = config_.qk_norm = true;
  const std::pair<const char*, int64_t> vectors[] = {{"q_proj.bias", 8},   {"k_proj.bias", 4},
                                                     {"v_proj.bias", 4},   {"o_proj.bias", 6},
                                                     {"q_norm.weight", 2}, {"k_norm.weight", 2}};
  float value = 1000;
  for (const auto& [name, size] : vectors) {
    WriteSingle();
    const std::string full = absl::StrCat("model.layers.0.self_attn.", name);
    EXPECT_THAT(Load(), Fails(Code::kNotFound, full));
    tensors_.push_back({full, {size}, std::vector<float>(size, value++)});
  }
  WriteSingle();
  const absl::StatusOr<ModelWeights> weights = Load();
  ASSERT_THAT(weights, IsOk());
  const LayerWeights& layer = weights->layers[0];
  const Tensor* found[] = {&layer.query_bias,  &layer.key_bias,   &layer.value_bias,
                           &layer.output_bias, &layer.query_norm, &layer.key_norm};
  value = 1000;
  for (const Tensor* tensor : found) EXPECT_EQ(FirstValue(*tensor), value++);
  const std::string before = Fingerprint();
  TensorNamed("model.layers.0.self_attn.k_norm.weight").values[1] += 1;
  WriteSingle();
  EXPECT_NE(Fingerprint(), before);
}

TEST_F(WeightsTest, RefusesBiasesThatTheConfigKnowsNothingOf) {
  tensors_.push_back({"model.layers.0.mlp.up_proj.bias", {10}, std::vector<float>(10)});
  WriteSingle();
  EXPECT_THAT(Load(), Fails(Code::kUnimplemented, "model.layers.0.mlp.up_proj.bias"));
}

TEST_F(WeightsTest, RefusesLayersBeyondTheLast) {
  tensors_.push_back({"model.layers.1.mlp.up_proj.weight", {10, 6}, std::vector<float>(60)});
  WriteSingle();
  EXPECT_THAT(Load(), Fails(Code::kInvalidArgument, "num_hidden_layers 1"));
}

TEST_F(WeightsTest, FingerprintKnowsTheScalingOfRope) {
  WriteSingle();
  const std::string plain = Fingerprint();
  std::set<std::string> prints = {plain};
  for (const RopeScaling scaling :
       {RopeScaling::kLinear, RopeScaling::kLlama3, RopeScaling::kYarn}) {
    config_.rope.scaling = scaling;
    prints.insert(Fingerprint());
    config_.rope.factor += 1;
    prints.insert(Fingerprint());
  }
  EXPECT_EQ(prints.size(), 7);
  config_.rope = RopeConfig();
  EXPECT_EQ(Fingerprint(), plain);
}

TEST_F(WeightsTest, IgnoresUnknownTensorsButNotQuantisedOnes) {
  tensors_.push_back({"model.layers.0.self_attn.rotary_emb.inv_freq", {1}, {1}});
  WriteSingle();
  EXPECT_THAT(Load(), IsOk());
  for (const char* ending : {"qweight", "qzeros", "scales", "g_idx", "weight_scale",
                             "weight_scale_inv", "weight_packed", "SCB", "absmax"}) {
    tensors_.back().name = absl::StrCat("model.layers.0.mlp.up_proj.", ending);
    WriteSingle();
    EXPECT_THAT(Load(), Fails(Code::kUnimplemented, tensors_.back().name));
  }
}

TEST_F(WeightsTest, RefusesOtherDTypesByName) {
  WriteSingle();
  std::string bytes = ReadFile(dir_ / "model.safetensors");
  const size_t at = bytes.find("\"F32\"");
  bytes.replace(at, 5, "\"I32\"");
  WriteFile(dir_ / "model.safetensors", bytes);
  EXPECT_THAT(Load(), Fails(Code::kUnimplemented, "is I32"));
}

TEST_F(WeightsTest, FingerprintIsStable) {
  WriteSingle();
  const std::string single = Fingerprint();
  EXPECT_EQ(single.size(), 32u);
  // Files hold this value, so no release may change it.
  EXPECT_EQ(single, "146c76939ebde4ab41de80c9553631f3");
  std::filesystem::remove(dir_ / "model.safetensors");
  WriteShards(4);
  EXPECT_EQ(Fingerprint(), single);
  config_.eos_token_ids = {1};
  config_.max_position_embeddings = 99;
  config_.dtype = DType::kBFloat16;
  EXPECT_EQ(Fingerprint(), single);
}

TEST_F(WeightsTest, FingerprintBindsEveryTensorAndTheConfig) {
  WriteSingle();
  std::set<std::string> seen = {Fingerprint()};
  for (SmallTensor& tensor : tensors_) {
    const float old = tensor.values.back();
    tensor.values.back() = -1;
    WriteSingle();
    EXPECT_TRUE(seen.insert(Fingerprint()).second) << tensor.name;
    tensor.values.back() = old;
  }
  WriteSingle();
  const ModelConfig config = config_;
  config_.rope.theta = 5;
  EXPECT_TRUE(seen.insert(Fingerprint()).second);
  config_ = config;
  config_.rms_norm_eps = 1e-5;
  EXPECT_TRUE(seen.insert(Fingerprint()).second);
  config_ = config;
  config_.num_heads = 2;  // the same shapes, other heads
  config_.num_kv_heads = 1;
  config_.head_dim = 4;
  EXPECT_TRUE(seen.insert(Fingerprint()).second);
}

TEST_F(WeightsTest, FingerprintSamplesBothEndsOfALargeTensor) {
  std::vector<float> values(1000);
  ModelWeights weights;
  weights.embedding = {values.data(), DType::kFloat32, {1000}, nullptr};
  weights.final_norm = weights.lm_head = weights.embedding;
  std::set<std::string> seen = {ModelFingerprint(config_, weights)};
  for (const size_t at : {size_t{0}, values.size() - 1}) {
    values[at] = 1;
    EXPECT_TRUE(seen.insert(ModelFingerprint(config_, weights)).second) << at;
  }
}

TEST_F(WeightsTest, RandomDamageOfTheIndexIsRefusedOrHarmless) {
  WriteShards(5);
  const std::string index = ReadFile(dir_ / "model.safetensors.index.json");
  std::mt19937_64 random(3);
  int loaded = 0;
  for (int round = 0; round < 2000; ++round) {
    WriteFile(dir_ / "model.safetensors.index.json", Mutate(index, index.size(), &random));
    const absl::StatusOr<ModelWeights> weights = Load();
    if (!weights.ok()) continue;
    ++loaded;
    ASSERT_EQ(ModelFingerprint(config_, *weights).size(), 32u);
  }
  EXPECT_GT(loaded, 0);
  EXPECT_LT(loaded, 2000);
}

}  // namespace
}  // namespace longspan
