// The invariants of docs/ALGORITHM.md on a GPU, over ranks as threads that share it.
#include <string>
#include <tuple>
#include <vector>

#include "absl/status/statusor.h"
#include "gtest/gtest.h"
#include "kernels/cuda/device.h"
#include "runtime/config.h"
#include "sharding/digit_select.h"
#include "tests/reference/random_model.h"
#include "tests/runtime/esa_checks.h"
#include "tests/runtime/sharded_run.h"

namespace longspan {
namespace {

bool HasGpu() {
  const absl::StatusOr<int> devices = cuda::CountDevices();
  EXPECT_TRUE(devices.ok()) << devices.status();
  return devices.ok() && *devices > 0;
}

Config SmallGpuConfig() {
  Config config = SmallConfig();
  config.device = "cuda";
  config.dtype = "float32";
  return config;
}

class CudaReferenceTest : public testing::TestWithParam<std::tuple<Variant, int, bool>> {
  void SetUp() override {
    if (!HasGpu()) GTEST_SKIP() << "no GPU";
  }
};

TEST_P(CudaReferenceTest, LogitsAndSelections) {
  const auto& [variant, ranks, deterministic] = GetParam();
  const RandomModel model = MakeRandomModel(SmallModel());
  Config config = SmallGpuConfig();
  variant.apply(&config);
  config.deterministic = deterministic;
  const TestSequence sequence = MakeSequence(7, 203, 9, model.config.vocab_size);
  const auto results = RunSharded(model, config, ranks, {sequence});
  ExpectMatchesReference(model, config, sequence, results[0], 2e-5);
}

INSTANTIATE_TEST_SUITE_P(Variants, CudaReferenceTest,
                         testing::Combine(testing::ValuesIn(Variants()), testing::Values(1, 2, 4),
                                          testing::Bool()),
                         [](const auto& variant) {
                           return std::string(std::get<0>(variant.param).name) +
                                  std::to_string(std::get<1>(variant.param)) +
                                  (std::get<2>(variant.param) ? "Deterministic" : "");
                         });

// Other scores and their targets, whose groups GPUs want in multiples of 16 bytes.
void ApplyOnGpu(const Variant& variant, Config* config) {
  variant.apply(config);
  if (config->esa.score == Score::kGroupVote) config->esa.score_groups = 2;
}

class CudaScoreTest : public CudaReferenceTest {};

TEST_P(CudaScoreTest, LogitsAndSelections) {
  const auto& [variant, ranks, deterministic] = GetParam();
  const RandomModel model = MakeRandomModel(SmallModel());
  Config config = SmallGpuConfig();
  ApplyOnGpu(variant, &config);
  config.deterministic = deterministic;
  const TestSequence sequence = MakeSequence(7, 203, 9, model.config.vocab_size);
  const auto results = RunSharded(model, config, ranks, {sequence});
  // Shares are small numbers.
  const bool votes = config.esa.score == Score::kSoftVote || config.esa.score == Score::kGroupVote;
  ExpectMatchesReference(model, config, sequence, results[0], 2e-5, votes ? 4e-6 : 2e-4);
}

INSTANTIATE_TEST_SUITE_P(Scores, CudaScoreTest,
                         testing::Combine(testing::ValuesIn(ScoreVariants()),
                                          testing::Values(1, 2, 3, 5), testing::Bool()),
                         [](const auto& variant) {
                           return std::string(std::get<0>(variant.param).name) +
                                  std::to_string(std::get<1>(variant.param)) +
                                  (std::get<2>(variant.param) ? "Deterministic" : "");
                         });

INSTANTIATE_TEST_SUITE_P(Targets, CudaScoreTest,
                         testing::Combine(testing::ValuesIn(TargetVariants()),
                                          testing::Values(1, 2, 3, 5), testing::Bool()),
                         [](const auto& variant) {
                           return std::string(std::get<0>(variant.param).name) +
                                  std::to_string(std::get<1>(variant.param)) +
                                  (std::get<2>(variant.param) ? "Deterministic" : "");
                         });

class CudaFamilyTest : public testing::TestWithParam<Family> {
  void SetUp() override {
    if (!HasGpu()) GTEST_SKIP() << "no GPU";
  }
};

TEST_P(CudaFamilyTest, LogitsAndSelections) {
  RandomModelOptions options = SmallModel();
  GetParam().apply(&options);
  const RandomModel model = MakeRandomModel(options);
  const Config config = SmallGpuConfig();
  const TestSequence sequence = MakeSequence(15, 203, 5, model.config.vocab_size);
  const auto results = RunSharded(model, config, 3, {sequence});
  ExpectMatchesReference(model, config, sequence, results[0], 2e-5);
}

INSTANTIATE_TEST_SUITE_P(Families, CudaFamilyTest, testing::ValuesIn(Families()),
                         [](const auto& test) { return std::string(test.param.name); });

class CudaBitEqualityTest : public testing::TestWithParam<Variant> {
  void SetUp() override {
    if (!HasGpu()) GTEST_SKIP() << "no GPU";
  }
};

TEST_P(CudaBitEqualityTest, AcrossRanksChunksStripesAndBatches) {
  const RandomModel model = MakeRandomModel(SmallModel());
  Config config = SmallGpuConfig();
  ApplyOnGpu(GetParam(), &config);
  ExpectTheSameBitsAllWays(model, config);
}

INSTANTIATE_TEST_SUITE_P(Variants, CudaBitEqualityTest, testing::ValuesIn(Variants()),
                         [](const auto& variant) { return std::string(variant.param.name); });

INSTANTIATE_TEST_SUITE_P(Scores, CudaBitEqualityTest, testing::ValuesIn(ScoreVariants()),
                         [](const auto& variant) { return std::string(variant.param.name); });

INSTANTIATE_TEST_SUITE_P(Targets, CudaBitEqualityTest, testing::ValuesIn(TargetVariants()),
                         [](const auto& variant) { return std::string(variant.param.name); });

// The graph of a decode step, which runs with an observer do not use, replayed as sequences come
// and go.
class CudaEsaTest : public testing::Test {
  void SetUp() override {
    if (!HasGpu()) GTEST_SKIP() << "no GPU";
  }
};

TEST_F(CudaEsaTest, GraphsOfStepsGiveTheSameLogits) {
  const RandomModel model = MakeRandomModel(SmallModel());
  const int64_t vocab = model.config.vocab_size;
  const std::vector<TestSequence> sequences = {MakeSequence(1, 203, 12, vocab),
                                               MakeSequence(2, 150, 40, vocab),
                                               MakeSequence(3, 49, 3, vocab)};
  std::vector<Variant> variants = {{"HeadSum", [](Config*) {}}};
  for (const absl::Span<const Variant> more : {ScoreVariants(), TargetVariants()}) {
    variants.insert(variants.end(), more.begin(), more.end());
  }
  for (const Variant& variant : variants) {
    SCOPED_TRACE(variant.name);
    Config config = SmallGpuConfig();
    ApplyOnGpu(variant, &config);
    const auto observed = RunSharded(model, config, 1, sequences);
    const auto replayed = RunSharded(model, config, 1, sequences, {.observe = false});
    for (size_t i = 0; i < sequences.size(); ++i) {
      EXPECT_EQ(replayed[i].logits, observed[i].logits) << "sequence " << i;
    }
  }
}

// Caches of fewer bits, and products of them on tensor cores.
TEST_F(CudaEsaTest, ScoresOfSmallNumbersAreTheSameOnAnyRanks) {
  RandomModelOptions options = SmallModel();
  options.head_dim = 64;
  options.compressed_dim = 32;
  const RandomModel model = MakeRandomModel(options);
  const TestSequence sequence = MakeSequence(23, 303, 5, model.config.vocab_size);
  for (const char* cache : {"bfloat16", "fp8_e4m3"}) {
    for (const Variant& variant : ScoreVariants()) {
      Config config = SmallGpuConfig();
      ApplyOnGpu(variant, &config);
      config.esa.compressed_dim = 32;
      config.dtype = "bfloat16";
      config.kv_cache_dtype = cache;
      config.deterministic = true;
      const auto alone = RunSharded(model, config, 1, {sequence});
      for (const int ranks : {2, 3, 5}) {
        SCOPED_TRACE(testing::Message() << cache << ", " << variant.name << ", " << ranks);
        const auto together = RunSharded(model, config, ranks, {sequence});
        EXPECT_EQ(together[0].selections, alone[0].selections);
        EXPECT_EQ(together[0].logits, alone[0].logits);
      }
    }
  }
}

TEST_F(CudaEsaTest, Fp8CachesMatchReferenceWithinTheirRounding) {
  RandomModelOptions options = SmallModel();
  options.head_dim = 64;
  options.compressed_dim = 16;
  const RandomModel model = MakeRandomModel(options);
  for (const char* dtype : {"auto", "fp8_e4m3"}) {
    for (const int ranks : {1, 2}) {
      Config config = SmallGpuConfig();
      config.esa.compressed_dim = 16;
      config.kv_cache_dtype = dtype;
      config.kv_cache_score_dtype = "fp8_e4m3";
      const TestSequence sequence = MakeSequence(8, 150, 5, model.config.vocab_size);
      const auto results = RunSharded(model, config, ranks, {sequence});
      // Numbers have 3 bits behind the point, and scores are sums of products up to some hundreds.
      ExpectMatchesReference(model, config, sequence, results[0], 0.3, 30.0);
    }
  }
}

// Groups of a chunk's blocks, whose keys come while others are attended to: more groups than ranks
// have blocks in some, two or three blocks in a group, ranks without a block, last blocks that are
// short.
TEST_F(CudaEsaTest, GroupsOfBlocksAttendToWhatTheyWould) {
  const RandomModel model = MakeRandomModel(SmallModel());
  const int64_t vocab = model.config.vocab_size;
  struct Case {
    int ranks;
    int64_t chunk, stripe, prompt;
  };
  for (const Case& c : {Case{2, 192, 96, 203}, Case{2, 160, 16, 331}, Case{3, 320, 96, 331},
                        Case{4, 64, 48, 203}, Case{5, 400, 128, 411}, Case{1, 400, 400, 411}}) {
    for (const Attention attention : {Attention::kEsa, Attention::kStreaming, Attention::kDense}) {
      for (const char* tier : {"device", "host"}) {
        SCOPED_TRACE(testing::Message()
                     << c.ranks << " ranks, chunk " << c.chunk << ", stripe " << c.stripe << ", "
                     << tier << ", attention " << static_cast<int>(attention));
        Config config = SmallGpuConfig();
        config.attention = attention;
        config.deterministic = true;
        const std::vector<TestSequence> sequences = {MakeSequence(21, c.prompt, 3, vocab),
                                                     MakeSequence(22, 17, 5, vocab)};
        config.prefill_chunk_tokens = 64;
        config.parallel.stripe_tokens = 64;
        const auto alone = RunSharded(model, config, 1, sequences);
        config.kv_cache_tier = tier;
        config.prefill_chunk_tokens = c.chunk;
        config.parallel.stripe_tokens = c.stripe;
        const auto together = RunSharded(model, config, c.ranks, sequences);
        for (size_t i = 0; i < sequences.size(); ++i) {
          EXPECT_EQ(together[i].selections, alone[i].selections) << "sequence " << i;
          EXPECT_EQ(together[i].logits, alone[i].logits) << "sequence " << i;
        }
        config.deterministic = false;
        const auto free = RunSharded(model, config, c.ranks, {sequences[0]});
        ExpectMatchesReference(model, config, sequences[0], free[0], 2e-5);
      }
    }
  }
}

TEST_F(CudaEsaTest, MergesByHistogramSelectTheSame) {
  const RandomModel model = MakeRandomModel(SmallModel());
  for (const bool deterministic : {false, true}) {
    for (const int ranks : {2, 3, 5}) {
      SCOPED_TRACE(testing::Message() << ranks << " ranks");
      Config config = SmallGpuConfig();
      config.deterministic = deterministic;
      ExpectBothMergesSelectTheSame(model, config, ranks);
    }
  }
}

TEST_F(CudaEsaTest, VotesMergedEitherWaySelectTheSame) {
  const RandomModel model = MakeRandomModel(SmallModel());
  for (const Variant& variant : ScoreVariants()) {
    SCOPED_TRACE(variant.name);
    Config config = SmallGpuConfig();
    ApplyOnGpu(variant, &config);
    ExpectBothMergesSelectTheSame(model, config, 3);
  }
}

TEST_F(CudaEsaTest, VotersAgreeOnMaximaAndSums) {
  Config config = SmallGpuConfig();
  const TestSequence sequence = MakeSequence(14, 203, 5, SmallModel().vocab_size);
  const auto maxima = [&] { return StatsOfRun(config, 2, sequence).at("select.maxima"); };
  config.esa.compression = Compression::kExact;
  const CallStats of_sum = maxima();  // of prompts alone
  config.esa.score = Score::kHeadMax;
  EXPECT_EQ(maxima().calls, of_sum.calls);
  EXPECT_EQ(maxima().bytes_sent, of_sum.bytes_sent);
  config.esa.score = Score::kSoftVote;
  const CommunicatorStats stats = StatsOfRun(config, 2, sequence);
  const CallStats sums = stats.at("select.sums"), of_voters = stats.at("select.maxima");
  EXPECT_GT(of_voters.calls, of_sum.calls);
  EXPECT_EQ(sums.calls, of_voters.calls);
  EXPECT_EQ(sums.bytes_sent, 4 * of_voters.bytes_sent);
  const int64_t decoded = of_voters.calls - of_sum.calls;  // one row each
  EXPECT_EQ(of_voters.bytes_sent, SmallModel().num_heads * (of_sum.bytes_sent + 4 * decoded));
}

TEST_F(CudaEsaTest, TheConfigChoosesHowCandidatesMerge) {
  Config config = SmallGpuConfig();
  const TestSequence sequence = MakeSequence(14, 203, 5, SmallModel().vocab_size);
  EXPECT_FALSE(StatsOfRun(config, 2, sequence).contains("select.histograms"));
  config.parallel.selection_merge = SelectionMerge::kHistogram;
  const CommunicatorStats stats = StatsOfRun(config, 2, sequence);
  EXPECT_FALSE(stats.contains("select.candidates"));
  // On two ranks each sends what is summed to one.
  const CallStats winners = stats.at("select.winners"), histograms = stats.at("select.histograms");
  EXPECT_EQ(histograms.calls, kDigits * winners.calls);
  const int64_t rows = winners.bytes_sent / (config.esa.top_k * 4);
  EXPECT_GT(rows, winners.calls) << "blocks of a chunk together";
  EXPECT_EQ(histograms.bytes_sent, rows * (4 * 8192 + 4096 + 2) * 4);
}

// Where keys and values lie changes no bit.
TEST_F(CudaEsaTest, ACacheOnTheHostIsTheSame) {
  const RandomModel model = MakeRandomModel(SmallModel());
  const int64_t vocab = model.config.vocab_size;
  const std::vector<TestSequence> sequences = {MakeSequence(1, 203, 12, vocab),
                                               MakeSequence(2, 150, 4, vocab)};
  for (const bool deterministic : {false, true}) {
    for (const int ranks : {1, 2}) {
      Config config = SmallGpuConfig();
      config.deterministic = deterministic;
      const auto on_device = RunSharded(model, config, ranks, sequences);
      config.kv_cache_tier = "host";
      const auto on_host = RunSharded(model, config, ranks, sequences);
      for (size_t i = 0; i < sequences.size(); ++i) {
        SCOPED_TRACE(testing::Message() << "ranks " << ranks << ", sequence " << i);
        EXPECT_EQ(on_host[i].selections, on_device[i].selections);
        EXPECT_EQ(on_host[i].logits, on_device[i].logits);
      }
    }
  }
}

TEST_F(CudaEsaTest, Bfloat16MatchesReferenceWithinItsRounding) {
  RandomModelOptions options = SmallModel();
  options.head_dim = 64;
  options.compressed_dim = 16;
  const RandomModel model = MakeRandomModel(options);
  for (const char* dtype : {"float32", "bfloat16"}) {
    Config config = SmallGpuConfig();
    config.esa.compressed_dim = 16;
    config.dtype = dtype;
    config.kv_cache_dtype = "bfloat16";
    const TestSequence sequence = MakeSequence(8, 150, 5, model.config.vocab_size);
    const auto results = RunSharded(model, config, 2, {sequence});
    // Scores are sums over 4 heads of 64 dimensions, some tens in size.
    ExpectMatchesReference(model, config, sequence, results[0], 5e-2, 2.0);
  }
}

}  // namespace
}  // namespace longspan
