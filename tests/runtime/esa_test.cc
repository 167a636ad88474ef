// The invariants of docs/ALGORITHM.md, over ranks as threads.
#include <cmath>
#include <cstdint>
#include <string>
#include <tuple>
#include <vector>

#include "collectives/thread_communicator.h"
#include "gtest/gtest.h"
#include "runtime/config.h"
#include "tests/reference/random_model.h"
#include "tests/reference/reference_model.h"
#include "tests/runtime/sharded_run.h"

namespace longspan {
namespace {

RandomModelOptions SmallModel() {
  RandomModelOptions options;
  options.num_layers = 3;
  options.compressed_dim = 8;
  return options;
}

// Small sizes, so that short prompts already select.
Config SmallConfig() {
  Config config;
  config.esa.initial_tokens = 4;
  config.esa.local_tokens = 24;
  config.esa.top_k = 12;
  config.esa.selection_block = 16;
  config.esa.compressed_dim = 8;
  config.prefill_chunk_tokens = 64;
  return config;
}

TestSequence MakeSequence(uint64_t seed, int64_t prompt, int64_t decoded, int64_t vocab) {
  return {RandomTokens(seed, prompt, vocab), RandomTokens(seed + 1000, decoded, vocab)};
}

ReferenceOptions OptionsOf(const Config& config, const RandomModel& model) {
  ReferenceOptions options;
  using Kind = ReferenceOptions::Attention;
  options.attention = config.attention == Attention::kDense       ? Kind::kDense
                      : config.attention == Attention::kStreaming ? Kind::kStreaming
                                                                  : Kind::kEsa;
  options.initial_tokens = config.esa.initial_tokens;
  options.local_tokens = config.esa.local_tokens;
  options.top_k = config.esa.top_k;
  options.selection_block = config.esa.selection_block;
  options.far_position =
      config.esa.far_position > 0 ? config.esa.far_position : config.esa.local_tokens;
  options.proximity = config.esa.proximity;
  options.native_positions = config.esa.positions == Positions::kNative;
  if (config.esa.compression == Compression::kLowRank) options.compressor = &model.compressor;
  return options;
}

// Relative to the largest logit of the position.
void ExpectLogitsNear(const std::vector<double>& expected, const float* actual, int64_t vocab,
                      double tolerance, const std::string& where) {
  double scale = 0;
  for (int64_t v = 0; v < vocab; ++v) scale = std::max(scale, std::fabs(expected[v]));
  for (int64_t v = 0; v < vocab; ++v) {
    ASSERT_NEAR(expected[v], actual[v], tolerance * scale) << where << ", token " << v;
  }
}

// Logits given the run's own selections, and those selections, both against the reference.
void ExpectMatchesReference(const RandomModel& model, const Config& config,
                            const TestSequence& sequence, const SequenceResult& result,
                            double tolerance) {
  ReferenceOptions options = OptionsOf(config, model);
  options.forced_selection = [&](int64_t layer,
                                 int64_t block) -> std::optional<std::vector<int64_t>> {
    const auto found = result.selections.find({layer, block});
    EXPECT_NE(found, result.selections.end()) << "layer " << layer << ", block " << block;
    return found == result.selections.end() ? std::vector<int64_t>() : found->second;
  };
  ReferenceModel reference(model.config, model.weights, options);
  const int64_t vocab = model.config.vocab_size;
  const auto check = [&](const ReferenceStep& step, int64_t first_position) {
    for (size_t layer = 0; layer < step.selections.size(); ++layer) {
      for (const BlockSelection& block : step.selections[layer]) {
        const auto& actual = result.selections.at({static_cast<int64_t>(layer), block.begin});
        EXPECT_EQ(SelectionMismatch(block, actual, 10 * tolerance), "")
            << "layer " << layer << ", block at " << block.begin;
      }
    }
    for (size_t i = 0; i < step.logits.size() / vocab; ++i) {
      const std::vector<double> row(step.logits.begin() + i * vocab,
                                    step.logits.begin() + (i + 1) * vocab);
      const int64_t position = first_position + static_cast<int64_t>(i);
      ExpectLogitsNear(row, result.logits.data() + position * vocab, vocab, tolerance,
                       "position " + std::to_string(position));
    }
  };
  check(reference.Prompt(sequence.prompt), 0);
  for (size_t i = 0; i < sequence.decoded.size(); ++i) {
    check(reference.Decode(sequence.decoded[i]), static_cast<int64_t>(sequence.prompt.size() + i));
  }
}

struct Variant {
  const char* name;
  void (*apply)(Config*);
};

const Variant kVariants[] = {
    {"LowRank", [](Config*) {}},
    {"Exact", [](Config* c) { c->esa.compression = Compression::kExact; }},
    {"Native", [](Config* c) { c->esa.positions = Positions::kNative; }},
    {"Streaming", [](Config* c) { c->attention = Attention::kStreaming; }},
    {"Dense", [](Config* c) { c->attention = Attention::kDense; }},
    {"WideProximity", [](Config* c) { c->esa.proximity = 13; }},
    {"NoProximity", [](Config* c) { c->esa.proximity = 0; }},
    {"NoInitial", [](Config* c) { c->esa.initial_tokens = 0; }},
    {"FarPosition", [](Config* c) { c->esa.far_position = 100; }},
    {"OddSizes",
     [](Config* c) {
       c->esa.initial_tokens = 3;
       c->esa.local_tokens = 21;
       c->esa.selection_block = 7;
       c->esa.top_k = 5;
       c->prefill_chunk_tokens = 35;
       c->parallel.stripe_tokens = 14;
     }},
};

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
                         testing::Combine(testing::ValuesIn(kVariants),
                                          testing::Values(1, 2, 3, 4, 8), testing::Bool()),
                         [](const auto& variant) {
                           return std::string(std::get<0>(variant.param).name) +
                                  std::to_string(std::get<1>(variant.param)) +
                                  (std::get<2>(variant.param) ? "Deterministic" : "");
                         });

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
                         testing::Combine(testing::ValuesIn(kVariants), testing::Values(2, 3, 8),
                                          testing::Values(Moving::kKeys, Moving::kQueries)),
                         [](const auto& variant) {
                           return std::string(std::get<0>(variant.param).name) +
                                  std::to_string(std::get<1>(variant.param)) +
                                  (std::get<2>(variant.param) == Moving::kKeys ? "Keys"
                                                                               : "Queries");
                         });

// Calls of each name on rank 0.
CommunicatorStats StatsOfRun(Config config, int ranks, const TestSequence& sequence) {
  const RandomModel model = MakeRandomModel(SmallModel());
  EXPECT_TRUE(ResolveConfig(ranks, &config).ok());
  CommunicatorStats stats;
  const absl::Status ran = RunThreadRanks(ranks, [&](Communicator& communicator) -> absl::Status {
    std::vector<SequenceResult> results(1);
    results[0].logits.resize((sequence.prompt.size() + sequence.decoded.size()) *
                             model.config.vocab_size);
    const absl::Status status = RunOnRank(model, config, communicator, {sequence}, &results);
    if (communicator.rank() == 0) stats = communicator.stats();
    return status;
  });
  EXPECT_TRUE(ran.ok()) << ran;
  return stats;
}

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

TEST(EsaTest, Bfloat16CacheMatchesReferenceWithinItsRounding) {
  const RandomModel model = MakeRandomModel(SmallModel());
  Config config = SmallConfig();
  config.kv_cache_dtype = "bfloat16";
  const TestSequence sequence = MakeSequence(8, 150, 5, model.config.vocab_size);
  const auto results = RunSharded(model, config, 2, {sequence});
  ExpectMatchesReference(model, config, sequence, results[0], 2e-2);
}

// Ways to run that must not change a bit.
struct Way {
  int ranks;
  int64_t chunk, stripe;
};

const Way kWays[] = {{1, 64, 64}, {1, 16, 16},  {1, 128, 48}, {2, 64, 32},
                     {2, 96, 16}, {3, 48, 16},  {3, 64, 32},  {4, 64, 16},
                     {4, 16, 16}, {4, 256, 64}, {8, 64, 16},  {8, 128, 16}};

// What other families add to Llama, under every kind of attention.
struct Family {
  const char* name;
  void (*apply)(RandomModelOptions*);
};

const Family kFamilies[] = {
    {"Bias", [](RandomModelOptions* o) { o->attention_bias = true; }},
    {"QkNorm", [](RandomModelOptions* o) { o->qk_norm = true; }},
    {"Linear", [](RandomModelOptions* o) { o->rope_scaling = RopeScaling::kLinear; }},
    {"Llama3", [](RandomModelOptions* o) { o->rope_scaling = RopeScaling::kLlama3; }},
    {"Yarn",
     [](RandomModelOptions* o) {
       o->rope_scaling = RopeScaling::kYarn;
       o->head_dim = 32;
     }},
};

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
                         testing::Combine(testing::ValuesIn(kFamilies),
                                          testing::ValuesIn(kVariants, kVariants + 5),
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
  config.esa.selection_block = 16;
  config.deterministic = true;
  // Ends mid-block; shorter than a block and than eight ranks; one that only just selects; a block.
  const int64_t vocab = model.config.vocab_size;
  const std::vector<TestSequence> sequences = {
      MakeSequence(1, 203, 12, vocab), MakeSequence(2, 5, 40, vocab), MakeSequence(3, 49, 3, vocab),
      MakeSequence(4, 16, 0, vocab)};
  std::vector<SequenceResult> alone;
  config.prefill_chunk_tokens = 32;
  config.parallel.stripe_tokens = 32;
  for (const TestSequence& sequence : sequences) {
    alone.push_back(RunSharded(model, config, 1, {sequence})[0]);
  }
  for (const Way& way : kWays) {
    config.prefill_chunk_tokens = way.chunk;
    config.parallel.stripe_tokens = way.stripe;
    if (config.esa.proximity > way.stripe) continue;
    const auto together = RunSharded(model, config, way.ranks, sequences);
    for (size_t i = 0; i < sequences.size(); ++i) {
      SCOPED_TRACE(testing::Message() << "sequence " << i << ", ranks " << way.ranks << ", chunk "
                                      << way.chunk << ", stripe " << way.stripe);
      EXPECT_EQ(together[i].selections, alone[i].selections);
      EXPECT_EQ(together[i].logits, alone[i].logits);
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Variants, BitEqualityTest, testing::ValuesIn(kVariants),
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
