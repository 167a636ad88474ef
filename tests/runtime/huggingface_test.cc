// Logits against those of Hugging Face transformers in float32 (tools/make_model_fixtures.py).
#include <algorithm>
#include <cmath>
#include <fstream>
#include <string>
#include <tuple>
#include <vector>

#include "absl/strings/str_format.h"
#include "gtest/gtest.h"
#include "nlohmann/json.hpp"
#include "runtime/safetensors.h"
#include "tests/runtime/sharded_run.h"

namespace longspan {
namespace {

// The largest difference, relative to the largest of the logits.
double RelativeDifference(const float* actual, const float* expected, int64_t count) {
  double difference = 0, scale = 0;
  for (int64_t i = 0; i < count; ++i) {
    difference = std::max(difference, std::abs(static_cast<double>(actual[i]) - expected[i]));
    scale = std::max(scale, std::abs(static_cast<double>(expected[i])));
  }
  return difference / scale;
}

using Parameters = std::tuple<std::string, int, bool>;  // fixture, ranks, through ESA

class HuggingFaceTest : public testing::TestWithParam<Parameters> {};

TEST_P(HuggingFaceTest, Logits) {
  const auto& [name, ranks, through_esa] = GetParam();
  const std::string directory =
      std::string(LONGSPAN_SOURCE_DIR) + "/tests/runtime/testdata/models/" + name;
  RandomModel model;
  model.config = *LoadModelConfig(directory);
  model.weights = *LoadWeights(directory, model.config);
  const SafetensorsFile expected = *SafetensorsFile::Open(directory + "/logits.safetensors");
  const auto fixture = nlohmann::json::parse(std::ifstream(directory + "/prompts.json"));
  Config config;
  config.esa.initial_tokens = 4;
  config.esa.local_tokens = 24;
  config.esa.selection_block = 16;
  config.prefill_chunk_tokens = 64;
  // ESA that selects everything at true positions must be dense attention.
  config.attention = through_esa ? Attention::kEsa : Attention::kDense;
  config.esa.compression = Compression::kExact;
  config.esa.positions = Positions::kNative;
  config.esa.top_k = 3000;
  std::vector<TestSequence> sequences;
  for (const auto& prompt : fixture.at("prompts")) sequences.push_back({prompt, {}});
  const auto results = RunSharded(model, config, ranks, sequences);
  const int64_t vocab = model.config.vocab_size;
  double worst = 0;
  for (size_t i = 0; i < sequences.size(); ++i) {
    const auto positions = fixture.at("positions")[i].get<std::vector<int64_t>>();
    const Tensor logits = *expected.Find("prompts." + std::to_string(i));
    ASSERT_EQ(logits.shape, (std::vector<int64_t>{static_cast<int64_t>(positions.size()), vocab}));
    for (size_t p = 0; p < positions.size(); ++p) {
      const double difference =
          RelativeDifference(results[i].logits.data() + positions[p] * vocab,
                             static_cast<const float*>(logits.data) + p * vocab, vocab);
      EXPECT_LE(difference, 1e-4) << "prompt " << i << ", position " << positions[p];
      worst = std::max(worst, difference);
    }
  }
  RecordProperty("worst_difference", absl::StrFormat("%.2g", worst));
}

INSTANTIATE_TEST_SUITE_P(
    Fixtures, HuggingFaceTest,
    testing::Combine(testing::Values("llama_f32_tied", "llama_bf16_sharded", "llama_f16", "llama2",
                                     "llama_bias_linear", "llama31", "llama32_tied", "mistral",
                                     "qwen2", "qwen2_yarn", "qwen3", "qwen3_yarn"),
                     testing::Values(1, 3), testing::Bool()));

}  // namespace
}  // namespace longspan
