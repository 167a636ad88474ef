#include "runtime/memory_plan.h"

#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "sharding/topk_merge.h"

namespace longspan {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::Not;

Config SmallConfig() {
  Config config;
  config.prefill_chunk_tokens = 1024;
  config.esa.selection_block = 256;
  config.esa.top_k = 128;
  return config;
}

ModelConfig SmallModel() {
  ModelConfig model;
  model.hidden_size = 64;
  model.intermediate_size = 128;
  model.num_layers = 2;
  model.num_heads = 4;
  model.num_kv_heads = 2;
  model.head_dim = 16;
  return model;
}

KvShape SmallCache() {
  KvShape kv;
  kv.layers = 2;
  kv.kv_dim = 32;
  kv.score_dim = 8;
  kv.stripe_tokens = 256;
  kv.halo = 1;
  return kv;
}

TEST(MemoryPlanTest, PagesFitInWhatIsLeft) {
  MemoryPlan plan;
  plan.weights = 300;
  plan.activations = 200;
  plan.scores = 60;
  plan.exchange = 40;
  plan.page = 100;
  plan.available = 2000;
  EXPECT_EQ(plan.fixed(), 600);
  EXPECT_EQ(plan.MaxPages(1.0), 14);
  EXPECT_EQ(plan.MaxPages(0.5), 4);
  EXPECT_EQ(plan.MaxPages(0.3), 0);
  EXPECT_EQ(plan.MaxPages(0.1), 0);  // not even the rest fits
}

TEST(MemoryPlanTest, PartsAreThoseOfTheRank) {
  const KvShape kv = SmallCache();
  const MemoryPlan one = PlanMemory(SmallConfig(), SmallModel(), kv, 1, 1, 1000);
  EXPECT_EQ(one.weights, 1000);
  EXPECT_EQ(one.exchange, 0);
  EXPECT_EQ(one.page, kv.page_bytes());
  EXPECT_GT(one.activations, 0);
  EXPECT_GT(one.available, 0);
  const MemoryPlan four = PlanMemory(SmallConfig(), SmallModel(), kv, 4, 4, 1000);
  EXPECT_EQ(four.weights, 250);
  EXPECT_GT(four.exchange, 0);
  EXPECT_LT(four.activations, one.activations);
  EXPECT_LT(four.available, one.available);
}

TEST(MemoryPlanTest, GrowsWithTheChunkAndNotWithTheContext) {
  Config config = SmallConfig();
  const MemoryPlan before = PlanMemory(config, SmallModel(), SmallCache(), 2, 2, 1000);
  config.max_model_len = int64_t{1} << 24;
  const MemoryPlan longer = PlanMemory(config, SmallModel(), SmallCache(), 2, 2, 1000);
  EXPECT_EQ(longer.fixed(), before.fixed());
  config.prefill_chunk_tokens *= 4;
  const MemoryPlan larger = PlanMemory(config, SmallModel(), SmallCache(), 2, 2, 1000);
  EXPECT_GT(larger.activations, before.activations);
  EXPECT_GT(larger.scores, before.scores);
  KvShape unscored = SmallCache();
  unscored.score_dim = 0;
  EXPECT_EQ(PlanMemory(config, SmallModel(), unscored, 2, 2, 1000).scores, 0);
}

TEST(MemoryPlanTest, HoldsTheMessagesOfWhateverMoves) {
  // Few heads of keys: a round's 32,768 tokens, and as many of the next, in and out.
  // Many heads of queries, of 512 rows: two ranks' queries, partials of the chunk and of both
  // ranks.
  Config config = SmallConfig();
  ModelConfig model = SmallModel();
  const int64_t keys = 2 * 32768 * 2 * SmallCache().row_bytes();
  EXPECT_EQ(PlanMemory(config, model, SmallCache(), 2, 2, 1000).exchange, keys);
  model.num_heads = 1024;
  const int64_t rows = 3 * 256;  // a chunk may touch five stripes, three of one rank
  const int64_t query = model.num_heads * model.head_dim;
  EXPECT_EQ(PlanMemory(config, model, SmallCache(), 2, 2, 1000).exchange,
            4 * (2 * rows * query + (1024 + 2 * rows) * (query + model.num_heads)));
  config.deterministic = true;
  EXPECT_EQ(PlanMemory(config, model, SmallCache(), 2, 2, 1000).exchange, keys);
}

TEST(MemoryPlanTest, HoldsTheCandidatesOfTheWayTheyMerge) {
  // Every rank's top-k and its own; or its own twice, as many, with what exceeds them, of all
  // ranks, a histogram and a count of each rank.
  Config config = SmallConfig();
  config.max_num_seqs = 1;
  const int64_t blocks = config.prefill_chunk_tokens / config.esa.selection_block;
  const int64_t k = config.esa.top_k;
  const auto scores = [&](SelectionMerge merge) {
    config.parallel.selection_merge = merge;
    return PlanMemory(config, SmallModel(), SmallCache(), 4096, 1, 1000).scores;
  };
  const int64_t gathered = scores(SelectionMerge::kAllGather);
  EXPECT_EQ(gathered - scores(SelectionMerge::kHistogram),
            blocks * (4097 * k * 8 - (3 * k + 512) * 8 - (1024 + 4096) * 4));
  EXPECT_EQ(scores(SelectionMerge::kAuto), scores(SelectionMerge::kHistogram));
  // A token of each of more sequences than a chunk has blocks.
  config.max_num_seqs = blocks + 3;
  EXPECT_EQ(scores(SelectionMerge::kAllGather) - gathered, 3 * 4097 * k * 8);
}

TEST(MemoryPlanTest, SurvivesSettingsBeyondAnInteger) {
  Config config = SmallConfig();
  config.prefill_chunk_tokens = 1 << 24;
  config.esa.selection_block = 1;
  config.esa.top_k = int64_t{1} << 40;
  const MemoryPlan plan = PlanMemory(config, SmallModel(), SmallCache(), 2, 2, 1000);
  EXPECT_GT(plan.scores, 1'000'000'000'000'000'000);
  EXPECT_EQ(plan.MaxPages(1), 0);
}

TEST(MemoryPlanTest, SaysItsPartsInBytesAsPeopleReadThem) {
  MemoryPlan plan;
  plan.weights = 1234567;
  plan.available = 25'000'000'000;
  EXPECT_THAT(plan.ToString(), HasSubstr("weights 1.2 MB"));
  EXPECT_THAT(plan.ToString(), HasSubstr("available 25.0 GB"));
}

MemoryPlan PlanOf100BytePages() {
  MemoryPlan plan;
  plan.weights = 500;
  plan.page = 100;
  plan.available = 4000;
  return plan;
}

TEST(LongestRequestTest, PlansNothingForTokensThatCannotCome) {
  const MemoryPlan plan = PlanOf100BytePages();
  const SequenceLayout layout = {16, 2};  // a page of each rank holds 32 tokens
  const auto constant = [](int64_t) { return int64_t{500}; };
  EXPECT_EQ(LongestRequest(plan, 1.0, layout, constant), 30 * 32);
  EXPECT_EQ(LongestRequest(plan, 0.5, layout, constant), 10 * 32);
  // A page and its part of the activations together: 3500 / (100 + 32 * 2).
  const auto growing = [](int64_t tokens) { return 2 * tokens; };
  EXPECT_EQ(LongestRequest(plan, 1.0, layout, growing), 21 * 32);
  // 5 pages leave room for others, but not for what a longer request needs beside them.
  const auto steps = [](int64_t tokens) { return tokens <= 5 * 32 ? 2000 : 4000; };
  EXPECT_EQ(LongestRequest(plan, 1.0, layout, steps), 5 * 32);
  const auto large = [](int64_t) { return int64_t{1} << 40; };
  EXPECT_EQ(LongestRequest(plan, 1.0, layout, large), 0);
}

TEST(LongestRequestTest, IsLimitedByTheHostAndByWhatPositionsAreCountedIn) {
  MemoryPlan plan = PlanOf100BytePages();
  plan.host_page = 1000;
  plan.host_available = 4500;
  const auto none = [](int64_t) { return int64_t{0}; };
  EXPECT_EQ(LongestRequest(plan, 1.0, {16, 2}, none), 4 * 32);
  plan = PlanOf100BytePages();
  EXPECT_EQ(LongestRequest(plan, 1.0, {int64_t{1} << 31, 1}, none), kMaxPosition);
  plan.page = 0;
  EXPECT_EQ(LongestRequest(plan, 1.0, {16, 2}, none), kMaxPosition);
}

Config FitConfig(int64_t max_model_len) {
  Config config;
  config.device = "cuda";
  config.dtype = "bfloat16";
  config.kv_cache_memory_fraction = 1;
  config.max_model_len = max_model_len;
  return config;
}

std::string Refusal(const MemoryPlan& plan, Config config) {
  const absl::Status status =
      FitCache(plan, plan.MaxPages(config.kv_cache_memory_fraction), &config, {16, 2});
  EXPECT_TRUE(absl::IsResourceExhausted(status)) << status;
  return std::string(status.message());
}

TEST(FitCacheTest, TakesTheLongestThatFits) {
  MemoryPlan plan = PlanOf100BytePages();
  Config config = FitConfig(0);
  EXPECT_EQ(FitCache(plan, 35, &config, {16, 2}), absl::OkStatus());
  EXPECT_EQ(config.max_model_len, 35 * 32);
  plan.longest = 21 * 32;  // other pages are for other requests
  config.max_model_len = 0;
  EXPECT_EQ(FitCache(plan, 35, &config, {16, 2}), absl::OkStatus());
  EXPECT_EQ(config.max_model_len, 21 * 32);
  plan.longest.reset();
  config.max_model_len = 0;
  EXPECT_EQ(FitCache(plan, 3, &config, {int64_t{1} << 40, 1}), absl::OkStatus());
  EXPECT_EQ(config.max_model_len, kMaxPosition);
  config.max_model_len = 0;
  EXPECT_TRUE(absl::IsResourceExhausted(FitCache(plan, 0, &config, {int64_t{1} << 40, 1})));
}

TEST(FitCacheTest, NamesTheGpusMemoryAndWhatWouldHelp) {
  MemoryPlan plan = PlanOf100BytePages();
  plan.longest = 21 * 32;
  plan.host_available = 100000;
  EXPECT_THAT(Refusal(plan, FitConfig(50 * 32)),
              AllOf(HasSubstr("for max_model_len 1600 a rank needs 5500 bytes of its GPU's memory "
                              "and may use 4000 "),
                    HasSubstr("; use a max_model_len of at most 672, `kv_cache.dtype: fp8_e4m3`, "
                              "`kv_cache.tier: host`, or more GPUs")));
  // Not what would not help.
  plan.host_available = 1000;
  Config config = FitConfig(50 * 32);
  EXPECT_THAT(Refusal(plan, config), Not(HasSubstr("kv_cache.tier")));
  plan.host_available = 100000;
  config.esa.compression = Compression::kExact;
  EXPECT_THAT(Refusal(plan, config), Not(HasSubstr("kv_cache.tier")));
  config.kv_cache_dtype = "fp8_e4m3";
  EXPECT_THAT(Refusal(plan, config),
              HasSubstr("; use a max_model_len of at most 672, or more GPUs"));
}

TEST(FitCacheTest, NamesTheHostsMemoryWhereThatIsTheLimit) {
  MemoryPlan plan = PlanOf100BytePages();
  plan.host_page = 1000;
  plan.host_available = 10000;
  plan.longest = 10 * 32;
  Config config = FitConfig(20 * 32);
  config.kv_cache_tier = "host";
  EXPECT_THAT(Refusal(plan, config),
              AllOf(HasSubstr("a rank needs 20000 bytes of its host's memory and may use 10000 "
                              "(kv_cache.memory_fraction 1 of 10000: "),
                    HasSubstr("; use a max_model_len of at most 320, `kv_cache.dtype: fp8_e4m3`, "
                              "or more machines")));
  plan.page = 1000;
  EXPECT_THAT(Refusal(plan, config), HasSubstr("20500 bytes of its GPU's memory"));
}

TEST(FitCacheTest, SaysWhatIsLeftWhereNothingFits) {
  MemoryPlan plan = PlanOf100BytePages();
  plan.available = 550;
  plan.longest = 0;
  EXPECT_THAT(Refusal(plan, FitConfig(0)),
              AllOf(HasSubstr("no memory for a cache: a rank needs 600 bytes of its GPU's"),
                    HasSubstr("; free memory, or use a higher kv_cache.memory_fraction, "
                              "`kv_cache.dtype: fp8_e4m3`, or more GPUs")));
  plan.available = 450;
  EXPECT_THAT(Refusal(plan, FitConfig(0)),
              HasSubstr("a lower prefill.chunk_tokens, or GPUs with more memory"));
  plan.longest.reset();
  Config config = FitConfig(32);
  config.device = "cpu";
  config.dtype = "float32";
  EXPECT_THAT(Refusal(plan, config),
              AllOf(HasSubstr("a rank needs 600 bytes of its host's memory and may use 450 "),
                    HasSubstr("a lower prefill.chunk_tokens, or more machines")));
  plan.available = 650;
  config.max_model_len = 100;
  EXPECT_THAT(Refusal(plan, config),
              HasSubstr("; use a max_model_len of at most 32, `kv_cache.dtype: bfloat16` or "
                        "`fp8_e4m3`, or more machines"));
}

TEST(FormatBytesTest, Units) {
  EXPECT_EQ(FormatBytes(0), "0 B");
  EXPECT_EQ(FormatBytes(999), "999 B");
  EXPECT_EQ(FormatBytes(1000), "1.0 kB");
  EXPECT_EQ(FormatBytes(1234567), "1.2 MB");
  EXPECT_EQ(FormatBytes(999999), "1.0 MB");
  EXPECT_EQ(FormatBytes(999'949'999), "999.9 MB");
  EXPECT_EQ(FormatBytes(1'500'000'000'000), "1.5 TB");
  EXPECT_EQ(FormatBytes(2'000'000'000'000'000), "2000.0 TB");
}

TEST(HostMemoryTest, PeakGrowsWithUse) {
  const int64_t before = PeakMemory();
  EXPECT_GT(before, 1'000'000);
  EXPECT_LT(before, int64_t{1} << 40);
  const std::vector<char> used(100 + before, 1);
  EXPECT_GE(PeakMemory(), before + 100 + (used[99] - 1));
  EXPECT_GT(AvailableMemory(), 0);
}

}  // namespace
}  // namespace longspan
