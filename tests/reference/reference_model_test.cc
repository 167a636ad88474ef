#include "tests/reference/reference_model.h"

#include <algorithm>
#include <cmath>
#include <complex>
#include <cstdint>
#include <fstream>
#include <limits>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "nlohmann/json.hpp"
#include "runtime/model_config.h"
#include "runtime/safetensors.h"
#include "runtime/weights.h"
#include "tests/reference/random_model.h"

namespace longspan {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Not;
using ::testing::SizeIs;
using Attention = ReferenceOptions::Attention;

constexpr double kNaN = std::numeric_limits<double>::quiet_NaN();
constexpr double kInfinity = std::numeric_limits<double>::infinity();

double MaxDifference(const std::vector<double>& a, const std::vector<double>& b) {
  EXPECT_EQ(a.size(), b.size());
  double difference = 0;
  for (size_t i = 0; i < a.size(); ++i) {
    const double d = std::abs(a[i] - b[i]);
    difference = std::isnan(d) ? kInfinity : std::max(difference, d);
  }
  return difference;
}

// The prompt's logits followed by those of the decoded tokens.
std::vector<double> Logits(const RandomModel& model, const ReferenceOptions& options,
                           const std::vector<int32_t>& tokens, int64_t decoded) {
  ReferenceModel reference(model.config, model.weights, options);
  const auto prompt = absl::MakeSpan(tokens).subspan(0, tokens.size() - decoded);
  std::vector<double> logits = reference.Prompt(prompt).logits;
  for (int64_t i = 0; i < decoded; ++i) {
    const std::vector<double> step = reference.Decode(tokens[prompt.size() + i]).logits;
    logits.insert(logits.end(), step.begin(), step.end());
  }
  return logits;
}

ReferenceOptions SmallEsa() {
  ReferenceOptions options;
  options.initial_tokens = 4;
  options.local_tokens = 24;
  options.top_k = 16;
  options.selection_block = 8;
  options.far_position = 24;
  return options;
}

TEST(OrderTest, ScoreDescendingThenPositionAscending) {
  EXPECT_TRUE(SelectedBefore(2, 9, 1, 3));
  EXPECT_FALSE(SelectedBefore(1, 3, 2, 9));
  EXPECT_TRUE(SelectedBefore(1, 3, 1, 9));
  EXPECT_FALSE(SelectedBefore(1, 9, 1, 3));
  EXPECT_FALSE(SelectedBefore(1, 3, 1, 3));
}

TEST(OrderTest, ZerosAreEqual) {
  EXPECT_TRUE(SelectedBefore(-0.0, 1, 0.0, 2));
  EXPECT_FALSE(SelectedBefore(0.0, 2, -0.0, 1));
}

TEST(OrderTest, NaNIsLast) {
  EXPECT_TRUE(SelectedBefore(-kInfinity, 9, kNaN, 1));
  EXPECT_FALSE(SelectedBefore(kNaN, 1, -kInfinity, 9));
  EXPECT_TRUE(SelectedBefore(kNaN, 1, -kNaN, 2));
  EXPECT_FALSE(SelectedBefore(kNaN, 2, -kNaN, 1));
}

TEST(SelectTopKTest, TiesZerosAndNaN) {
  const std::vector<double> scores = {kNaN, -0.0, 3, 0.0, -1, 3, 0.0};
  EXPECT_THAT(SelectTopK(scores, 10, 0), IsEmpty());
  EXPECT_THAT(SelectTopK(scores, 10, 1), ElementsAre(12));
  EXPECT_THAT(SelectTopK(scores, 10, 3), ElementsAre(11, 12, 15));
  EXPECT_THAT(SelectTopK(scores, 10, 4), ElementsAre(11, 12, 13, 15));
  EXPECT_THAT(SelectTopK(scores, 10, 6), ElementsAre(11, 12, 13, 14, 15, 16));
  EXPECT_THAT(SelectTopK(scores, 10, 99), SizeIs(7));
}

TEST(BlockScoresTest, SubtractsEachQuerysOwnMaximum) {
  // The second query's scores are large throughout; without the maximum it alone would decide.
  const std::vector<std::vector<double>> f = {{5, 1, 0, 4}, {100, 103, 101, 98}};
  EXPECT_THAT(BlockScores(f, true), ElementsAre(0, 0, -2, -1));
  EXPECT_THAT(BlockScores(f, false), ElementsAre(100, 103, 101, 98));
}

TEST(BlockScoresTest, NaNYieldsToNumbers) {
  const std::vector<double> scores = BlockScores({{kNaN, 2, kNaN}, {kNaN, kNaN, 7}}, true);
  EXPECT_TRUE(std::isnan(scores[0]));
  EXPECT_EQ(scores[1], 0);
  EXPECT_EQ(scores[2], 0);
}

TEST(ProximityTest, WindowMaximumIsClipped) {
  const std::vector<double> scores = {1, 9, 2, 3, kNaN, 4};
  EXPECT_THAT(ProximityScores({1, 9, 2, 3}, 0), ElementsAre(1, 9, 2, 3));
  EXPECT_THAT(ProximityScores(scores, 1), ElementsAre(9, 9, 9, 3, 4, 4));
  EXPECT_THAT(ProximityScores(scores, 99), ElementsAre(9, 9, 9, 9, 9, 9));
  // It makes ties, which positions break: 20 is selected before 22 though both owe it to 21.
  EXPECT_THAT(SelectTopK(ProximityScores(scores, 1), 20, 2), ElementsAre(20, 21));
}

TEST(SelectionMismatchTest, ForgivesOnlyWhatLiesAtTheThreshold) {
  BlockSelection expected;
  expected.middle_begin = 10;
  expected.middle_end = 15;
  expected.scores = {1, 5, 4, 4.001, 9};
  expected.selected = {11, 13, 14};
  EXPECT_EQ(SelectionMismatch(expected, {11, 13, 14}, 0), "");
  EXPECT_EQ(SelectionMismatch(expected, {11, 12, 14}, 0.01), "");
  EXPECT_THAT(SelectionMismatch(expected, {11, 12, 14}, 1e-4), HasSubstr("position 12"));
  EXPECT_THAT(SelectionMismatch(expected, {11, 12, 13}, 0.01), HasSubstr("14"));
  EXPECT_THAT(SelectionMismatch(expected, {10, 11, 14}, 0.01), HasSubstr("position 10"));
  EXPECT_THAT(SelectionMismatch(expected, {11, 14}, 0.01), HasSubstr("2 selected"));
  EXPECT_THAT(SelectionMismatch(expected, {14, 13, 11}, 0.01), HasSubstr("ascending"));
  EXPECT_THAT(SelectionMismatch(expected, {11, 13, 15}, 0.01), HasSubstr("middle"));
}

// One layer, hidden size 2, two query heads over one KV head of two dimensions. Its normed inputs,
// keys and values are the embeddings below, all of mean square 1; the first query head is the
// input, the second twice the input; attention's output is the first head's; the MLP adds nothing.
using Complex = std::complex<double>;
constexpr Complex kEmbeddings[] = {{1, 1}, {1.4, 0.2}, {0.2, 1.4}, {1, -1}, {-0.2, 1.4}, {-1, -1}};

RandomModel HandModel() {
  RandomModel model;
  ModelConfig& config = model.config;
  config.vocab_size = 6;
  config.hidden_size = config.intermediate_size = config.head_dim = 2;
  config.num_layers = config.num_kv_heads = 1;
  config.num_heads = 2;
  config.rms_norm_eps = 0;
  std::vector<float> embedding;
  for (const Complex& e : kEmbeddings) {
    embedding.push_back(static_cast<float>(e.real()));
    embedding.push_back(static_cast<float>(e.imag()));
  }
  const std::vector<float> one = {1, 0, 0, 1};
  LayerWeights layer;
  layer.attention_norm = layer.mlp_norm = model.weights.final_norm = MakeTensor({1, 1}, {2});
  layer.query = MakeTensor({1, 0, 0, 1, 2, 0, 0, 2}, {4, 2});
  layer.key = layer.value = layer.gate = layer.up = MakeTensor(one, {2, 2});
  layer.output = MakeTensor({1, 0, 0, 0, 0, 1, 0, 0}, {2, 4});
  layer.down = MakeTensor({0, 0, 0, 0}, {2, 2});
  model.weights.layers = {layer};
  model.weights.embedding = MakeTensor(embedding, {6, 2});
  model.weights.lm_head = model.weights.embedding;
  model.compressor.dim = 1;
  model.compressor.layers = {{MakeTensor({0, 1}, {2, 1}), MakeTensor({1, 0}, {2, 1})}};
  return model;
}

ReferenceOptions HandOptions() {
  ReferenceOptions options;
  options.initial_tokens = 1;
  options.local_tokens = 1;
  options.top_k = 1;
  options.selection_block = 2;
  options.far_position = 3;
  options.proximity = 0;
  return options;
}

testing::Matcher<std::vector<double>> Near(const std::vector<double>& expected, double tolerance) {
  return testing::Pointwise(testing::DoubleNear(tolerance), expected);
}

TEST(HandModelTest, ScoresOfPromptAndDecode) {
  const RandomModel model = HandModel();
  ReferenceModel reference(model.config, model.weights, HandOptions());
  const ReferenceStep prompt = reference.Prompt({0, 1, 2, 3, 4, 5, 0});
  const std::vector<BlockSelection>& blocks = prompt.selections[0];
  ASSERT_THAT(blocks, SizeIs(4));
  EXPECT_THAT(blocks[0].scores, IsEmpty());
  EXPECT_THAT(blocks[1].scores, IsEmpty());  // local tokens from 1: none in the middle

  // Block [4, 6): M = [1, 3). Group-summed queries 3 (-0.2, 1.4) and 3 (-1, -1);
  // f = {0, 5.76} and {-4.8, -4.8}; less each one's maximum: {-5.76, 0} and {0, 0}.
  EXPECT_EQ(blocks[2].begin, 4);
  EXPECT_EQ(blocks[2].end, 6);
  EXPECT_EQ(blocks[2].middle_begin, 1);
  EXPECT_EQ(blocks[2].middle_end, 3);
  EXPECT_NEAR(blocks[2].scores[0], 0, 1e-6);
  EXPECT_NEAR(blocks[2].scores[1], 0, 1e-6);

  // Block [6, 7), one token of the prompt: M = [1, 5), f = 3 {1.6, 1.6, 0, 1.2}.
  EXPECT_THAT(blocks[3].scores, Near({0, 0, -4.8, -1.2}, 1e-6));
  // Decoded token at 7: M = [1, 6), f = 3 {-1.6, -1.6, 0, -1.2, 2}, no maximum taken.
  const ReferenceStep decode = reference.Decode(5);
  EXPECT_THAT(decode.selections[0][0].scores, Near({-4.8, -4.8, 0, -3.6, 6}, 1e-6));
  EXPECT_THAT(decode.selections[0][0].selected, ElementsAre(5));
}

TEST(HandModelTest, CompressedScores) {
  const RandomModel model = HandModel();
  ReferenceOptions options = HandOptions();
  options.compressor = &model.compressor;  // f = second component of q * first of k
  options.proximity = 1;
  ReferenceModel reference(model.config, model.weights, options);
  reference.Prompt({0, 1, 2, 3, 4, 5, 0});
  // f = 0.6 {1.4, 0.2, 1, -0.2, -1}; of the equal window maxima the first is selected.
  const ReferenceStep decode = reference.Decode(1);
  EXPECT_THAT(decode.selections[0][0].scores, Near({0.84, 0.84, 0.6, 0.6, -0.12}, 1e-6));
  EXPECT_THAT(decode.selections[0][0].selected, ElementsAre(1));
}

// The logits of a token after attention over `keys`, each with its distance to the query.
std::vector<double> HandLogits(int token, const std::vector<std::pair<int, double>>& keys) {
  Complex output = 0;
  double sum = 0;
  for (const auto& [key, distance] : keys) {
    const Complex turned = kEmbeddings[token] * std::polar(1.0, distance);
    const double weight = std::exp((turned * std::conj(kEmbeddings[key])).real() / std::sqrt(2.0));
    output += weight * kEmbeddings[key];
    sum += weight;
  }
  const Complex hidden = kEmbeddings[token] + output / sum;
  const Complex normed = hidden / std::sqrt(std::norm(hidden) / 2);
  std::vector<double> logits;
  for (const Complex& e : kEmbeddings) logits.push_back((normed * std::conj(e)).real());
  return logits;
}

TEST(HandModelTest, FarKeysAreAtOneDistance) {
  const RandomModel model = HandModel();
  const std::vector<int32_t> prompt = {0, 1, 2, 3, 4, 5, 0};
  ReferenceOptions options = HandOptions();
  ReferenceModel far(model.config, model.weights, options);
  const std::vector<double> prompt_logits = far.Prompt(prompt).logits;
  EXPECT_THAT(std::vector<double>(prompt_logits.begin(), prompt_logits.begin() + 6),
              Near(HandLogits(0, {{0, 0}}), 1e-6));
  // Block [2, 4) has lo = initial_tokens: true positions. Decoded position 7 attends to 0, the
  // selected 1, and 6 and 7.
  EXPECT_THAT(std::vector<double>(prompt_logits.begin() + 12, prompt_logits.begin() + 18),
              Near(HandLogits(2, {{0, 2}, {1, 1}, {2, 0}}), 1e-6));
  EXPECT_THAT(far.Decode(1).logits, Near(HandLogits(1, {{0, 3}, {1, 3}, {0, 1}, {1, 0}}), 1e-6));

  options.native_positions = true;
  ReferenceModel native(model.config, model.weights, options);
  native.Prompt(prompt);
  EXPECT_THAT(native.Decode(1).logits, Near(HandLogits(1, {{0, 7}, {1, 6}, {0, 1}, {1, 0}}), 1e-6));

  options.attention = Attention::kStreaming;
  ReferenceModel streaming(model.config, model.weights, options);
  const ReferenceStep step = streaming.Prompt(prompt);
  EXPECT_THAT(step.selections[0].back().selected, IsEmpty());
  EXPECT_THAT(streaming.Decode(1).logits, Near(HandLogits(1, {{0, 7}, {0, 1}, {1, 0}}), 1e-6));

  options.attention = Attention::kEsa;
  options.forced_selection = [](int64_t layer, int64_t begin) {
    EXPECT_EQ(layer, 0);
    return begin == 7 ? std::optional<std::vector<int64_t>>({2, 3}) : std::nullopt;
  };
  ReferenceModel forced(model.config, model.weights, options);
  forced.Prompt(prompt);
  const ReferenceStep decode = forced.Decode(1);
  EXPECT_THAT(decode.selections[0][0].selected, ElementsAre(1));
  EXPECT_THAT(decode.logits, Near(HandLogits(1, {{0, 7}, {2, 5}, {3, 4}, {0, 1}, {1, 0}}), 1e-6));
}

TEST(InvariantTest, InitialAndLocalCoveringTheContextIsDense) {
  const RandomModel model = MakeRandomModel({});
  const std::vector<int32_t> tokens = RandomTokens(3, 60, model.config.vocab_size);
  ReferenceOptions dense;
  dense.attention = Attention::kDense;
  dense.selection_block = 16;
  ReferenceOptions esa = SmallEsa();
  esa.initial_tokens = 10;
  esa.local_tokens = 49;  // the last token's predecessors are 59
  EXPECT_LT(MaxDifference(Logits(model, esa, tokens, 5), Logits(model, dense, tokens, 0)), 1e-12);
  esa.local_tokens = 48;
  esa.top_k = 0;
  EXPECT_GT(MaxDifference(Logits(model, esa, tokens, 5), Logits(model, dense, tokens, 0)), 1e-6);
}

TEST(InvariantTest, NativePositionsAndAllOfTheMiddleIsDense) {
  for (const bool tied : {false, true}) {
    RandomModelOptions sizes;
    sizes.tie_word_embeddings = tied;
    sizes.dtype = tied ? DType::kBFloat16 : DType::kFloat32;
    const RandomModel model = MakeRandomModel(sizes);
    const std::vector<int32_t> tokens = RandomTokens(4, 150, model.config.vocab_size);
    ReferenceOptions options = SmallEsa();
    options.native_positions = true;
    options.top_k = 150;
    const std::vector<double> esa = Logits(model, options, tokens, 7);
    options.top_k = 16;
    const std::vector<double> sparse = Logits(model, options, tokens, 7);
    options.attention = Attention::kDense;
    const std::vector<double> dense = Logits(model, options, tokens, 0);
    EXPECT_LT(MaxDifference(esa, dense), 1e-12);
    EXPECT_GT(MaxDifference(sparse, dense), 1e-3);
  }
}

TEST(InvariantTest, NothingSelectedIsStreaming) {
  const RandomModel model = MakeRandomModel({});
  const std::vector<int32_t> tokens = RandomTokens(5, 100, model.config.vocab_size);
  ReferenceOptions options = SmallEsa();
  options.top_k = 0;
  const std::vector<double> esa = Logits(model, options, tokens, 3);
  options.attention = Attention::kStreaming;
  EXPECT_EQ(MaxDifference(esa, Logits(model, options, tokens, 3)), 0);
}

// A B^T = I.
TEST(InvariantTest, IdentityCompressorIsExact) {
  RandomModel model = MakeRandomModel({});
  std::vector<float> identity(32 * 32, 0);
  std::vector<float> half = identity, twice = identity;
  for (int i = 0; i < 32; ++i) {
    half[i * 33] = 0.5;
    twice[i * 33] = 2;
  }
  for (int i = 0; i < 2; ++i) {
    model.compressor.layers.push_back({MakeTensor(half, {32, 32}), MakeTensor(twice, {32, 32})});
  }
  const std::vector<int32_t> tokens = RandomTokens(6, 120, model.config.vocab_size);
  ReferenceOptions options = SmallEsa();
  const std::vector<double> exact = Logits(model, options, tokens, 3);
  options.compressor = &model.compressor;
  EXPECT_LT(MaxDifference(exact, Logits(model, options, tokens, 3)), 1e-12);
}

class HuggingFaceTest : public testing::TestWithParam<std::string> {};

// Logits of transformers in float32; dense, and by invariant (2) also selected in native positions.
TEST_P(HuggingFaceTest, LogitsAreThoseOfTransformers) {
  const std::string directory =
      absl::StrCat(LONGSPAN_SOURCE_DIR, "/tests/runtime/testdata/models/", GetParam());
  const auto config = LoadModelConfig(directory);
  ASSERT_TRUE(config.ok()) << config.status();
  const auto weights = LoadWeights(directory, *config);
  ASSERT_TRUE(weights.ok()) << weights.status();
  const auto fixture = SafetensorsFile::Open(directory + "/logits.safetensors");
  ASSERT_TRUE(fixture.ok()) << fixture.status();
  const auto file = nlohmann::json::parse(std::ifstream(directory + "/prompts.json"));
  const auto prompts = file["prompts"].get<std::vector<std::vector<int32_t>>>();
  ASSERT_THAT(prompts, Not(IsEmpty()));

  ReferenceOptions dense;
  dense.attention = Attention::kDense;
  ReferenceOptions native = SmallEsa();
  native.native_positions = true;
  native.top_k = 1000;
  for (size_t i = 0; i < prompts.size(); ++i) {
    if (prompts[i].size() > 200) continue;  // minutes in this implementation
    const auto positions = file["positions"][i].get<std::vector<int64_t>>();
    const auto tensor = fixture->Find(absl::StrCat("prompts.", i));
    ASSERT_TRUE(tensor.ok()) << tensor.status();
    const float* begin = static_cast<const float*>(tensor->data);
    const std::vector<double> expected(begin, begin + tensor->num_elements());
    double largest = 0;
    for (const double logit : expected) largest = std::max(largest, std::abs(logit));
    for (const ReferenceOptions& options : {dense, native}) {
      ReferenceModel reference(*config, *weights, options);
      const std::vector<double> all = reference.Prompt(prompts[i]).logits;
      std::vector<double> actual;
      for (const int64_t position : positions) {
        const auto row = all.begin() + position * config->vocab_size;
        actual.insert(actual.end(), row, row + config->vocab_size);
      }
      EXPECT_LT(MaxDifference(actual, expected), 1e-5 * largest);
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Models, HuggingFaceTest,
                         testing::Values("llama_f32_tied", "llama_bf16_sharded", "llama_f16",
                                         "llama2", "llama_bias_linear", "llama31", "llama32_tied",
                                         "mistral", "qwen2", "qwen2_yarn", "qwen3", "qwen3_yarn"),
                         [](const auto& test) { return test.param; });

TEST(RandomModelTest, IsAFunctionOfItsSeed) {
  const std::vector<int32_t> tokens = RandomTokens(7, 20, 97);
  const std::vector<double> first = Logits(MakeRandomModel({}), {}, tokens, 0);
  EXPECT_EQ(MaxDifference(first, Logits(MakeRandomModel({}), {}, tokens, 0)), 0);
  EXPECT_GT(MaxDifference(first, Logits(MakeRandomModel({.seed = 2}), {}, tokens, 0)), 0.1);
}

// Selections mean something only if scores differ by much more than rounding, and logits if the
// next token is not nearly arbitrary.
TEST(RandomModelTest, ScoresAndLogitsSpread) {
  RandomModelOptions sizes;
  sizes.compressed_dim = 8;
  const RandomModel model = MakeRandomModel(sizes);
  ReferenceOptions options = SmallEsa();
  options.compressor = &model.compressor;
  ReferenceModel reference(model.config, model.weights, options);
  const std::vector<int32_t> tokens = RandomTokens(8, 300, model.config.vocab_size);
  const ReferenceStep step = reference.Prompt(tokens);
  for (const auto& blocks : step.selections) {
    const BlockSelection& last = blocks.back();
    EXPECT_THAT(last.selected, SizeIs(16));
    EXPECT_EQ(last.middle_end, 296 - 24);
    const auto [low, high] = std::minmax_element(last.scores.begin(), last.scores.end());
    EXPECT_GT(*high - *low, 2);
  }
  double squares = 0;
  for (const double logit : step.logits) squares += logit * logit;
  EXPECT_NEAR(std::sqrt(squares / static_cast<double>(step.logits.size())), 2, 0.5);
}

}  // namespace
}  // namespace longspan
