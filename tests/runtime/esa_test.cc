// The invariants of docs/ALGORITHM.md, over ranks as threads.
#include <cmath>
#include <cstdint>
#include <string>
#include <tuple>
#include <vector>

#include "gtest/gtest.h"
#include "runtime/config.h"
#include "tests/reference/random_model.h"
#include "tests/reference/reference_model.h"
#include "tests/runtime/esa_checks.h"
#include "tests/runtime/sharded_run.h"

namespace longspan {
namespace {

class ReferenceTest : public testing::TestWithParam<std::tuple<Variant, int, bool>> {};

TEST_P(ReferenceTest, LogitsAndSelections) {
  const auto& [variant, ranks, deterministic] = GetParam();
  const RandomModel model = MakeRandomModel(SmallModel());
  Config config = SmallConfig();
  variant.apply(&config);
  config.deterministic = deterministic;
  const TestSequence sequence = MakeSequence(7, 203, 9, model.config.vocab_size);
  const auto results = RunSharded(model, config, ranks, {sequence});
  ExpectMatchesReference(model, config, sequence, results[0], 2e-5);
}

INSTANTIATE_TEST_SUITE_P(Variants, ReferenceTest,
                         testing::Combine(testing::ValuesIn(Variants()),
                                          testing::Values(1, 2, 3, 4, 8), testing::Bool()),
                         [](const auto& variant) {
                           return std::string(std::get<0>(variant.param).name) +
                                  std::to_string(std::get<1>(variant.param)) +
                                  (std::get<2>(variant.param) ? "Deterministic" : "");
                         });

class ScoreReferenceTest : public testing::TestWithParam<std::tuple<Variant, int, bool>> {};

TEST_P(ScoreReferenceTest, LogitsAndSelections) {
  const auto& [variant, ranks, deterministic] = GetParam();
  const RandomModel model = MakeRandomModel(SmallModel());
  Config config = SmallConfig();
  variant.apply(&config);
  config.deterministic = deterministic;
  const TestSequence sequence = MakeSequence(7, 203, 9, model.config.vocab_size);
  const auto results = RunSharded(model, config, ranks, {sequence});
  // Shares are small numbers.
  const double score_tolerance =
      config.esa.score == Score::kSoftVote || config.esa.score == Score::kGroupVote ? 2e-6 : 2e-4;
  ExpectMatchesReference(model, config, sequence, results[0], 2e-5, score_tolerance);
}

INSTANTIATE_TEST_SUITE_P(Variants, ScoreReferenceTest,
                         testing::Combine(testing::ValuesIn(ScoreVariants()),
                                          testing::Values(1, 2, 3, 5), testing::Bool()),
                         [](const auto& variant) {
                           return std::string(std::get<0>(variant.param).name) +
                                  std::to_string(std::get<1>(variant.param)) +
                                  (std::get<2>(variant.param) ? "Deterministic" : "");
                         });

INSTANTIATE_TEST_SUITE_P(Targets, ScoreReferenceTest,
                         testing::Combine(testing::ValuesIn(TargetVariants()),
                                          testing::Values(1, 2, 3, 5), testing::Bool()),
                         [](const auto& variant) {
                           return std::string(std::get<0>(variant.param).name) +
                                  std::to_string(std::get<1>(variant.param)) +
                                  (std::get<2>(variant.param) ? "Deterministic" : "");
                         });

INSTANTIATE_TEST_SUITE_P(Units, ScoreReferenceTest,
                         testing::Combine(testing::ValuesIn(UnitVariants()),
                                          testing::Values(1, 2, 3, 5), testing::Bool()),
                         [](const auto& variant) {
                           return std::string(std::get<0>(variant.param).name) +
                                  std::to_string(std::get<1>(variant.param)) +
                                  (std::get<2>(variant.param) ? "Deterministic" : "");
                         });

// Prompts of any tokens, of three, whose scores tie in layer 0, and of one, whose scores are all
// equal there, on any ranks and merged either way.
class ScoreTiesTest : public testing::TestWithParam<Variant> {};

TEST_P(ScoreTiesTest, SelectTheSameOnAnyRanks) {
  const RandomModel model = MakeRandomModel(SmallModel());
  Config config = SmallConfig();
  GetParam().apply(&config);
  config.deterministic = true;
  std::vector<TestSequence> sequences = {MakeSequence(16, 203, 9, model.config.vocab_size)};
  for (const int tokens : {3, 1}) {
    TestSequence& sequence = sequences.emplace_back();
    for (int i = 0; i < 150; ++i) sequence.prompt.push_back(i % tokens);
    sequence.decoded.assign(5, 0);
  }
  const auto expected = RunSharded(model, config, 1, sequences);
  for (const int ranks : {2, 3, 5}) {
    for (const SelectionMerge merge : {SelectionMerge::kAllGather, SelectionMerge::kHistogram}) {
      config.parallel.selection_merge = merge;
      const auto actual = RunSharded(model, config, ranks, sequences);
      for (size_t i = 0; i < sequences.size(); ++i) {
        EXPECT_EQ(actual[i].selections, expected[i].selections) << ranks << ", " << i;
        EXPECT_EQ(actual[i].logits, expected[i].logits) << ranks << ", " << i;
      }
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Variants, ScoreTiesTest, testing::ValuesIn(ScoreVariants()),
                         [](const auto& variant) { return std::string(variant.param.name); });

INSTANTIATE_TEST_SUITE_P(Targets, ScoreTiesTest, testing::ValuesIn(TargetVariants()),
                         [](const auto& variant) { return std::string(variant.param.name); });

INSTANTIATE_TEST_SUITE_P(Units, ScoreTiesTest, testing::ValuesIn(UnitVariants()),
                         [](const auto& variant) { return std::string(variant.param.name); });

// Both ways round the ring, whatever would be chosen, with what the choice depends on at hand:
// prompts that end mid-block and leave ranks without a query.
class MovingTest : public testing::TestWithParam<std::tuple<Variant, int, Moving>> {};

TEST_P(MovingTest, LogitsAndSelections) {
  const auto& [variant, ranks, moving] = GetParam();
  const RandomModel model = MakeRandomModel(SmallModel());
  Config config = SmallConfig();
  variant.apply(&config);
  for (const int64_t prompt : {203, 5}) {
    const TestSequence sequence = MakeSequence(13, prompt, 2, model.config.vocab_size);
    const auto results = RunSharded(model, config, ranks, {sequence}, {.moving = moving});
    ExpectMatchesReference(model, config, sequence, results[0], 2e-5);
  }
}

INSTANTIATE_TEST_SUITE_P(Variants, MovingTest,
                         testing::Combine(testing::ValuesIn(Variants()), testing::Values(2, 3, 8),
                                          testing::Values(Moving::kKeys, Moving::kQueries)),
                         [](const auto& variant) {
                           return std::string(std::get<0>(variant.param).name) +
                                  std::to_string(std::get<1>(variant.param)) +
                                  (std::get<2>(variant.param) == Moving::kKeys ? "Keys"
                                                                               : "Queries");
                         });

class SelectionMergeTest : public testing::TestWithParam<std::tuple<Variant, int, bool>> {};

TEST_P(SelectionMergeTest, BothWaysSelectTheSame) {
  const auto& [variant, ranks, deterministic] = GetParam();
  Config config = SmallConfig();
  variant.apply(&config);
  config.deterministic = deterministic;
  ExpectBothMergesSelectTheSame(MakeRandomModel(SmallModel()), config, ranks);
}

INSTANTIATE_TEST_SUITE_P(Variants, SelectionMergeTest,
                         testing::Combine(testing::ValuesIn({Variants()[0], Variants()[5]}),
                                          testing::Values(1, 2, 3, 5, 8), testing::Bool()),
                         [](const auto& variant) {
                           return std::string(std::get<0>(variant.param).name) +
                                  std::to_string(std::get<1>(variant.param)) +
                                  (std::get<2>(variant.param) ? "Deterministic" : "");
                         });

TEST(EsaTest, KeysOrQueriesMoveByWhatTheyCost) {
  // Bytes of a token: key and value 128 in bfloat16, query 256, partial 272. Of a chunk of 4 blocks
  // of 16 queries the busiest of 4 ranks sends 3 * 16 * 256 + 48 * 272 = 25,344 bytes if queries
  // move. With keys the last block of dense chunk c receives 48 (c + 1) * 128: 24,576 for c = 3,
  // 30,720 for c = 4.
  Config config = SmallConfig();
  config.kv_cache_dtype = "bfloat16";
  const TestSequence sequence = MakeSequence(14, 1200, 0, SmallModel().vocab_size);
  config.attention = Attention::kDense;
  const CommunicatorStats dense = StatsOfRun(config, 4, sequence);
  const int64_t calls_of_chunk = 3 * 3;  // layers, steps
  EXPECT_EQ(dense.at("ring.step").calls, 4 * calls_of_chunk);
  EXPECT_EQ(dense.at("ring.queries").calls, 15 * calls_of_chunk);
  EXPECT_EQ(dense.at("ring.partials").calls, 15 * calls_of_chunk);
  config.deterministic = true;
  EXPECT_FALSE(StatsOfRun(config, 4, sequence).contains("ring.queries"));
}

TEST(EsaTest, TheConfigChoosesHowCandidatesMerge) {
  Config config = SmallConfig();
  const TestSequence sequence = MakeSequence(14, 203, 5, SmallModel().vocab_size);
  EXPECT_FALSE(StatsOfRun(config, 4, sequence).contains("select.histograms"));
  config.parallel.selection_merge = SelectionMerge::kHistogram;
  const CommunicatorStats stats = StatsOfRun(config, 4, sequence);
  EXPECT_FALSE(stats.contains("select.candidates"));
  // Chunks and tokens that select, in each of 3 layers.
  EXPECT_EQ(stats.at("select.winners").calls, (4 + 5) * 3);
}

TEST(EsaTest, Bfloat16CacheMatchesReferenceWithinItsRounding) {
  const RandomModel model = MakeRandomModel(SmallModel());
  Config config = SmallConfig();
  config.kv_cache_dtype = "bfloat16";
  const TestSequence sequence = MakeSequence(8, 150, 5, model.config.vocab_size);
  const auto results = RunSharded(model, config, 2, {sequence});
  ExpectMatchesReference(model, config, sequence, results[0], 2e-2);
}

class FamilyTest : public testing::TestWithParam<std::tuple<Family, Variant, bool>> {};

TEST_P(FamilyTest, LogitsAndSelections) {
  const auto& [family, variant, deterministic] = GetParam();
  RandomModelOptions options = SmallModel();
  family.apply(&options);
  const RandomModel model = MakeRandomModel(options);
  Config config = SmallConfig();
  variant.apply(&config);
  config.deterministic = deterministic;
  const TestSequence sequence = MakeSequence(15, 203, 5, model.config.vocab_size);
  const auto results = RunSharded(model, config, 3, {sequence});
  ExpectMatchesReference(model, config, sequence, results[0], 2e-5);
  if (deterministic) {
    EXPECT_EQ(RunSharded(model, config, 1, {sequence})[0].logits, results[0].logits);
  }
}

INSTANTIATE_TEST_SUITE_P(Families, FamilyTest,
                         testing::Combine(testing::ValuesIn(Families()),
                                          testing::ValuesIn(Variants().subspan(0, 5)),
                                          testing::Bool()),
                         [](const auto& test) {
                           return std::string(std::get<0>(test.param).name) +
                                  std::get<1>(test.param).name +
                                  (std::get<2>(test.param) ? "Deterministic" : "");
                         });

class BitEqualityTest : public testing::TestWithParam<Variant> {};

TEST_P(BitEqualityTest, AcrossRanksChunksStripesAndBatches) {
  const RandomModel model = MakeRandomModel(SmallModel());
  Config config = SmallConfig();
  GetParam().apply(&config);
  ExpectTheSameBitsAllWays(model, config);
}

INSTANTIATE_TEST_SUITE_P(Variants, BitEqualityTest, testing::ValuesIn(Variants()),
                         [](const auto& variant) { return std::string(variant.param.name); });

INSTANTIATE_TEST_SUITE_P(Scores, BitEqualityTest, testing::ValuesIn(ScoreVariants()),
                         [](const auto& variant) { return std::string(variant.param.name); });

INSTANTIATE_TEST_SUITE_P(Targets, BitEqualityTest, testing::ValuesIn(TargetVariants()),
                         [](const auto& variant) { return std::string(variant.param.name); });

INSTANTIATE_TEST_SUITE_P(Units, BitEqualityTest, testing::ValuesIn(UnitVariants()),
                         [](const auto& variant) { return std::string(variant.param.name); });

TEST(EsaTest, BufferLimitsChangeNothing) {
  // What long contexts enter: several rounds of the ring, wide tiles, several groups of blocks.
  const RandomModel model = MakeRandomModel(SmallModel());
  const TestSequence sequence = MakeSequence(12, 400, 3, model.config.vocab_size);
  for (const Attention attention : {Attention::kEsa, Attention::kDense}) {
    Config config = SmallConfig();
    config.attention = attention;
    config.deterministic = true;
    const auto expected = RunSharded(model, config, 1, {sequence});
    for (const int64_t tile_bytes : {1, 20000}) {
      for (const int ranks : {1, 3}) {
        const RunOverrides overrides = {.limits = {.ring_round_tokens = 90,
                                                   .tile_maxima_bytes = tile_bytes,
                                                   .tile_group_bytes = 2 * tile_bytes}};
        const auto actual = RunSharded(model, config, ranks, {sequence}, overrides);
        EXPECT_EQ(actual[0].selections, expected[0].selections) << tile_bytes << ", " << ranks;
        EXPECT_EQ(actual[0].logits, expected[0].logits) << tile_bytes << ", " << ranks;
      }
    }
  }
}

double LargestDifference(const std::vector<float>& a, const std::vector<float>& b) {
  double largest = 0;
  for (size_t i = 0; i < a.size(); ++i) {
    largest = std::max(largest, std::fabs(static_cast<double>(a[i]) - b[i]));
  }
  return largest;
}

TEST(EsaTest, EqualsDenseWhenInitialAndLocalCoverTheContext) {
  const RandomModel model = MakeRandomModel(SmallModel());
  Config config = SmallConfig();
  config.esa.local_tokens = 300;
  const TestSequence sequence = MakeSequence(9, 203, 5, model.config.vocab_size);
  const auto esa = RunSharded(model, config, 2, {sequence});
  config.attention = Attention::kDense;
  const auto dense = RunSharded(model, config, 2, {sequence});
  EXPECT_EQ(LargestDifference(esa[0].logits, dense[0].logits), 0);
}

TEST(EsaTest, EqualsDenseWhenEverythingIsSelectedAtNativePositions) {
  const RandomModel model = MakeRandomModel(SmallModel());
  Config config = SmallConfig();
  config.esa.positions = Positions::kNative;
  config.esa.top_k = 1000;
  const TestSequence sequence = MakeSequence(10, 203, 5, model.config.vocab_size);
  const auto esa = RunSharded(model, config, 3, {sequence});
  config.attention = Attention::kDense;
  const auto dense = RunSharded(model, config, 3, {sequence});
  EXPECT_LT(LargestDifference(esa[0].logits, dense[0].logits), 1e-4);
}

TEST(EsaTest, SelectsWhenNotEverythingFits) {
  // Guards the tests above: the runs they compare must not be dense ones.
  const RandomModel model = MakeRandomModel(SmallModel());
  const Config config = SmallConfig();
  const TestSequence sequence = MakeSequence(11, 203, 1, model.config.vocab_size);
  const auto results = RunSharded(model, config, 2, {sequence});
  EXPECT_EQ(results[0].selections.at({0, 192}).size(), 12);
  EXPECT_NE(results[0].selections.at({0, 192}), results[0].selections.at({1, 192}));
}

TEST(EsaTest, EqualKeysAreSelectedInOrderOfPosition) {
  // Layer 0's keys depend on the token alone: a prompt of few tokens is full of ties.
  const RandomModel model = MakeRandomModel(SmallModel());
  Config config = SmallConfig();
  config.esa.proximity = 0;
  TestSequence sequence;
  for (int i = 0; i < 203; ++i) sequence.prompt.push_back(i % 3);
  const auto results = RunSharded(model, config, 4, {sequence});
  ExpectMatchesReference(model, config, sequence, results[0], 2e-5);
}

}  // namespace
}  // namespace longspan
