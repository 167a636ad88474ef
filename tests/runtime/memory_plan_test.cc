#include "runtime/memory_plan.h"

#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace longspan {
namespace {

using ::testing::HasSubstr;

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
  // Few heads of keys: a round's 32,768 tokens, in and out. Many heads of queries, of 512 rows: two
  // ranks' queries, partials of the chunk and of both ranks.
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
