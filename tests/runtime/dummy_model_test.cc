#include "runtime/dummy_model.h"

#include <cmath>
#include <cstring>
#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "kernels/base/convert.h"

namespace longspan {
namespace {

ModelConfig SmallConfig(DType dtype) {
  ModelConfig config;
  config.architecture = "Qwen3ForCausalLM";
  config.vocab_size = 300;
  config.hidden_size = 64;
  config.intermediate_size = 96;
  config.num_layers = 2;
  config.num_heads = 4;
  config.num_kv_heads = 2;
  config.head_dim = 16;
  config.qk_norm = true;
  config.dtype = dtype;
  return config;
}

std::vector<float> Values(const Tensor& tensor) {
  std::vector<float> values(tensor.num_elements());
  ConvertToFloat(tensor.data, tensor.dtype, tensor.num_elements(), values.data());
  return values;
}

TEST(DummyModelTest, WeightsAreRandomAndTheSameEveryTime) {
  for (const DType dtype : {DType::kFloat32, DType::kBFloat16, DType::kFloat16}) {
    const ModelConfig config = SmallConfig(dtype);
    const auto weights = MakeDummyWeights(config, /*fill=*/true);
    const auto again = MakeDummyWeights(config, /*fill=*/true);
    ASSERT_TRUE(weights.ok() && again.ok());
    const Tensor& gate = weights->layers[1].gate;
    EXPECT_EQ(gate.dtype, dtype == DType::kFloat32 ? dtype : DType::kBFloat16);
    EXPECT_EQ(gate.shape, (std::vector<int64_t>{96, 64}));
    EXPECT_EQ(std::memcmp(gate.data, again->layers[1].gate.data, gate.num_bytes()), 0);
    EXPECT_NE(std::memcmp(gate.data, weights->layers[0].gate.data, gate.num_bytes()), 0);
    double sum = 0, squares = 0;
    const std::vector<float> values = Values(gate);
    for (const float value : values) {
      sum += value;
      squares += value * value;
      EXPECT_LT(std::abs(value), 0.035);
    }
    EXPECT_NEAR(sum / static_cast<double>(values.size()), 0, 0.001);
    EXPECT_NEAR(std::sqrt(squares / static_cast<double>(values.size())), 0.02, 0.0005);
    EXPECT_THAT(Values(weights->layers[0].query_norm), testing::Each(1.0f));
    EXPECT_THAT(Values(weights->final_norm), testing::Each(1.0f));
  }
}

TEST(DummyModelTest, UnfilledWeightsCountAsTheOthers) {
  const ModelConfig config = SmallConfig(DType::kBFloat16);
  const auto filled = MakeDummyWeights(config, true);
  const auto empty = MakeDummyWeights(config, false);
  ASSERT_TRUE(filled.ok() && empty.ok());
  EXPECT_EQ(CountWeights(*filled).bytes, CountWeights(*empty).bytes);
  EXPECT_GT(CountWeights(*empty).parameters, 0);
}

TEST(DummyModelTest, CompressorFits) {
  const Compressor compressor = MakeDummyCompressor(SmallConfig(DType::kFloat32), 8);
  ASSERT_EQ(compressor.layers.size(), 2);
  EXPECT_EQ(compressor.layers[0].query.shape, (std::vector<int64_t>{32, 8}));
  EXPECT_NE(Values(compressor.layers[0].query), Values(compressor.layers[0].key));
  EXPECT_NE(Values(compressor.layers[0].key), Values(compressor.layers[1].key));
}

TEST(DummyModelTest, TokenizerHasATokenAByte) {
  const auto tokenizer = MakeDummyTokenizer(300);
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
  EXPECT_EQ((*tokenizer)->vocab_size(), 300);
  const std::string text = "Hi \xc3\xa9\n";
  const auto ids = (*tokenizer)->Encode(text, /*add_special_tokens=*/true);
  ASSERT_TRUE(ids.ok()) << ids.status();
  EXPECT_EQ(*ids, (std::vector<int32_t>{'H', 'i', ' ', 0xc3, 0xa9, '\n'}));
  EXPECT_EQ((*tokenizer)->Decode(*ids, /*skip_special_tokens=*/false), text);
  EXPECT_EQ((*tokenizer)->Decode(std::vector<int32_t>{299}, /*skip_special_tokens=*/false),
            "<|299|>");
}

}  // namespace
}  // namespace longspan
