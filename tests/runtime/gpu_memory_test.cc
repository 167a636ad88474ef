#include "runtime/gpu_memory.h"

#include <algorithm>

#include "gtest/gtest.h"
#include "runtime/model.h"
#include "tests/runtime/llama3_8b.h"

namespace longspan {
namespace {

constexpr int64_t kParameters = 8'030'261'248;  // of Llama 3 8B

// As ranks of configs/llama3-8b-256k.yaml resolve it on GPUs.
Config Resolved(int ranks) {
  Config config;
  config.device = "cuda";
  config.dtype = "bfloat16";
  config.max_num_seqs = 1;
  config.parallel.stripe_tokens = std::max<int64_t>(512, 4096 / ranks);
  return config;
}

MemoryPlan Estimate(const Config& config, int ranks, int64_t tokens) {
  return EstimateGpuMemory(config, Llama3Of8B(), ranks, kParameters, tokens);
}

int64_t Longest(const Config& config) {
  MemoryPlan plan = Estimate(config, 1, 1);
  plan.available = 150'000'000'000;  // an H200, as its driver shows it
  plan.scores = plan.exchange = 0;
  return LongestRequest(plan, 0.9, {4096, 1}, [&](int64_t tokens) {
    const MemoryPlan longer = Estimate(config, 1, tokens);
    return longer.activations + longer.scores + longer.exchange;
  });
}

// docs/PERFORMANCE.md: what a GPU of 150 GB, of which some were in use, said.
TEST(GpuMemoryTest, IsCloseToWhatAGpuSays) {
  Config config = Resolved(1);
  EXPECT_NEAR(static_cast<double>(Longest(config)), 839'680, 0.03 * 839'680);
  config.kv_cache_dtype = "fp8_e4m3";
  EXPECT_NEAR(static_cast<double>(Longest(config)), 1'675'264, 0.03 * 1'675'264);
}

TEST(GpuMemoryTest, GrowsWithTheContextAndFallsWithRanks) {
  const MemoryPlan one = Estimate(Resolved(1), 1, 1 << 20);
  const MemoryPlan longer = Estimate(Resolved(1), 1, 1 << 21);
  const MemoryPlan eight = Estimate(Resolved(8), 8, 1 << 20);
  EXPECT_EQ(one.weights, longer.weights);
  EXPECT_EQ(one.activations, longer.activations);
  EXPECT_GT(longer.scores, one.scores);
  EXPECT_LT(eight.scores, one.scores);
  EXPECT_LT(eight.activations, one.activations);
  EXPECT_GT(eight.exchange, one.exchange);  // keys are brought
  EXPECT_NEAR(static_cast<double>(8 * eight.page), static_cast<double>(one.page),
              0.03 * static_cast<double>(one.page));  // margins, and whole granules
}

TEST(GpuMemoryTest, KeepsKeysAndValuesOnTheHostIfAsked) {
  Config config = Resolved(1);
  const MemoryPlan device = Estimate(config, 1, 1 << 20);
  config.kv_cache_tier = "host";
  const MemoryPlan host = Estimate(config, 1, 1 << 20);
  EXPECT_EQ(device.host_page, 0);
  EXPECT_EQ(host.host_page, int64_t{32} * 2 * 4096 * 1024 * 2);
  EXPECT_LT(host.page, device.page / 10);
  EXPECT_GT(host.exchange, device.exchange);
}

TEST(GpuMemoryTest, HoldsAllCandidatesOnlyWhereTheyAreGathered) {
  constexpr int64_t kRanks = 1024;
  Config config = Resolved(kRanks);
  config.prefill_chunk_tokens = 512 * kRanks;
  const auto scores = [&](SelectionMerge merge) {
    config.parallel.selection_merge = merge;
    return Estimate(config, kRanks, 1 << 20).scores;
  };
  const int64_t histogram = scores(SelectionMerge::kHistogram);
  EXPECT_EQ(scores(SelectionMerge::kAllGather) - histogram,
            kRanks * (kRanks * 2048 * 8 - (8192 + 4096 + kRanks + 2048) * 4));
  // A few rows alone are gathered.
  EXPECT_GT(scores(SelectionMerge::kAuto), histogram);
  EXPECT_LT(scores(SelectionMerge::kAuto), histogram + 10 * kRanks * 2048 * 8);
}

// As CudaBuffers lays them (cuda_buffers_test.cc).
TEST(GpuMemoryTest, HoldsWhatVotersAgreeOn) {
  Config config = Resolved(2);
  config.esa.compression = Compression::kExact;
  const auto scores = [&](Score score) {
    config.esa.score = score;
    return Estimate(config, 2, 1 << 20).scores;
  };
  constexpr int64_t kRows = 4096;  // of a chunk on a rank that has the stripe of a chunk's end too
  const int64_t sum = scores(Score::kHeadSum), hard = scores(Score::kHeadMax);
  const int64_t own_keys = (int64_t{1} << 19) + 2 * 256;
  EXPECT_EQ(hard - sum, (1 + 2) * kRows * 3072 * 2 + 32 * own_keys * 4);
  EXPECT_EQ(scores(Score::kSoftVote) - hard, 2 * kRows * 32 * (4 + 16 + 4));
}

TEST(GpuMemoryTest, DenseAttentionScoresNothing) {
  Config config = Resolved(2);
  config.attention = Attention::kDense;
  const MemoryPlan plan = Estimate(config, 2, 1 << 20);
  EXPECT_EQ(plan.scores, 0);
  // Every token comes to every rank.
  EXPECT_GT(plan.exchange, (int64_t{1} << 20) * 2 * 1024 * 2);
}

}  // namespace
}  // namespace longspan
