// Logits against those of Hugging Face transformers in float32 (tools/make_model_fixtures.py).
#include <algorithm>
#include <cmath>
#include <fstream>
#include <string>
#include <tuple>
#include <vector>

#include "gtest/gtest.h"
#include "nlohmann/json.hpp"
#include "runtime/safetensors.h"
#include "tests/runtime/sharded_run.h"

namespace longspan {
namespace {

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
  const nlohmann::json prompts =
      nlohmann::json::parse(std::ifstream(directory + "/prompts.json")).at("prompts");
  Config config;
  config.esa.initial_tokens = 4;
  config.esa.local_tokens = 24;
  config.esa.selection_block = 16;
  config.prefill_chunk_tokens = 64;
  // ESA that selects everything at true positions must be dense attention.
  config.attention = through_esa ? Attention::kEsa : Attention::kDense;
  config.esa.compression = Compression::kExact;
  config.esa.positions = Positions::kNative;
  config.esa.top_k = 1000;
  std::vector<TestSequence> sequences;
  for (const auto& prompt : prompts) sequences.push_back({prompt, {}});
  const auto results = RunSharded(model, config, ranks, sequences);
  for (size_t i = 0; i < sequences.size(); ++i) {
    const Tensor logits = *expected.Find("prompts." + std::to_string(i));
    ASSERT_EQ(logits.num_elements(), results[i].logits.size());
    const auto* values = static_cast<const float*>(logits.data);
    const int64_t vocab = model.config.vocab_size;
    for (int64_t row = 0; row < logits.shape[0]; ++row) {
      float scale = 0;
      for (int64_t v = 0; v < vocab; ++v)
        scale = std::max(scale, std::abs(values[row * vocab + v]));
      for (int64_t v = 0; v < vocab; ++v) {
        ASSERT_NEAR(results[i].logits[row * vocab + v], values[row * vocab + v], 1e-4 * scale)
            << "prompt " << i << ", position " << row << ", token " << v;
      }
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Fixtures, HuggingFaceTest,
                         testing::Combine(testing::Values("llama_f32_tied", "llama_bf16_sharded",
                                                          "llama_f16"),
                                          testing::Values(1, 3), testing::Bool()));

}  // namespace
}  // namespace longspan
