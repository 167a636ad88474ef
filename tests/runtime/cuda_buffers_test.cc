// The sizes of a GPU's buffers are known without one.
#include "runtime/cuda/cuda_buffers.h"

#include <algorithm>

#include "gtest/gtest.h"
#include "kernels/cuda/rope.h"
#include "runtime/cuda/cuda_transformer.h"
#include "runtime/model.h"
#include "tests/runtime/llama3_8b.h"

namespace longspan {
namespace {

CudaSizes SizesOf(int ranks, const char* tier, Attention attention = Attention::kEsa,
                  int64_t far_position = 0) {
  Config config;
  config.attention = attention;
  config.esa.far_position = far_position;
  config.device = "cuda";
  config.dtype = "bfloat16";
  config.kv_cache_tier = tier;
  config.max_model_len = 1 << 20;
  config.parallel.stripe_tokens = 4096;
  const ModelConfig model = Llama3Of8B();
  return CudaSizes::Of(config, model, MakeAttentionContext(config, model, ranks), /*sharers=*/1,
                       /*multiprocessors=*/132);
}

int64_t BytesOf(const CudaSizes& sizes) {
  Arena arena, shared;
  CudaBuffers().Lay(sizes, &arena, &shared);
  return arena.bytes() + shared.bytes();
}

TEST(CudaSizesTest, SendToOthersWhatTheyMayWant) {
  for (const int ranks : {2, 4, 8}) {
    const CudaSizes sizes = SizesOf(ranks, "device");
    EXPECT_GT(sizes.keys_of_rank(), 0);
    EXPECT_LE(sizes.keys_of_rank(), sizes.arriving_keys());
    EXPECT_LE(sizes.keys_of_rank(), sizes.own_tokens);
    EXPECT_EQ(sizes.sent_keys(), (ranks - 1) * sizes.keys_of_rank());
  }
}

TEST(CudaSizesTest, ARankThatIsAloneSendsNothing) {
  const CudaSizes on_device = SizesOf(1, "device"), on_host = SizesOf(1, "host");
  EXPECT_EQ(on_device.arriving_keys(), 0);
  EXPECT_EQ(on_device.sent_keys(), 0);
  EXPECT_GT(on_host.arriving_keys(), 0);
  EXPECT_EQ(on_host.sent_keys(), 0);
  // What arrives, and a few numbers a key and a position.
  const int64_t arrived = on_host.arriving_keys() * 2 * on_host.kv.row_bytes();
  const int64_t more = BytesOf(on_host) - BytesOf(on_device);
  EXPECT_GE(more, arrived);
  EXPECT_LT(more, arrived + 3 * 4 * (on_host.arriving_keys() + on_host.max_tokens));
}

// Memory for a way to merge is there for as many rows as take it, and not for others.
TEST(CudaSizesTest, HoldWhatTheirMergesNeed) {
  constexpr int64_t kRanks = 64, kRows = 64, kTopK = 2048;
  Config config;
  config.device = "cuda";
  config.dtype = "bfloat16";
  config.max_model_len = 1 << 20;
  config.parallel.stripe_tokens = 512;
  config.prefill_chunk_tokens = kRows * 512;
  const ModelConfig model = Llama3Of8B();
  const auto sizes_of = [&](SelectionMerge merge) {
    config.parallel.selection_merge = merge;
    return CudaSizes::Of(config, model, MakeAttentionContext(config, model, kRanks), /*sharers=*/1,
                         /*multiprocessors=*/132);
  };
  const CudaSizes gather = sizes_of(SelectionMerge::kAllGather);
  const CudaSizes histogram = sizes_of(SelectionMerge::kHistogram);
  const CudaSizes cheapest = sizes_of(SelectionMerge::kAuto);
  const int64_t of_gather = kRanks * kTopK * 8;  // of a row
  const int64_t of_histogram = 16 + (8192 + 4096 + kRanks + kTopK) * 4;
  ASSERT_EQ(gather.selections(), kRows);
  EXPECT_EQ(gather.MostMerged(MergeWay::kHistogram), 0);
  EXPECT_EQ(histogram.MostMerged(MergeWay::kAllGather), 0);
  EXPECT_EQ(BytesOf(gather) - BytesOf(histogram), kRows * (of_gather - of_histogram));
  const int64_t few = cheapest.MostMerged(MergeWay::kAllGather);
  EXPECT_GT(few, 0);
  EXPECT_LT(few, kRows);
  EXPECT_EQ(cheapest.WayToMerge(few), MergeWay::kAllGather);
  EXPECT_EQ(cheapest.WayToMerge(kRows), MergeWay::kHistogram);
  EXPECT_EQ(BytesOf(cheapest) - BytesOf(histogram), few * of_gather);
}

// Voters: Llama's 32 heads read its 8 key heads.
TEST(CudaSizesTest, HoldWhatVotersAgreeOn) {
  constexpr int kRanks = 2;
  Config config;
  config.device = "cuda";
  config.dtype = "bfloat16";
  config.max_model_len = 1 << 20;
  config.max_num_seqs = 16;
  config.parallel.stripe_tokens = 2048;
  config.esa.compression = Compression::kExact;
  const ModelConfig model = Llama3Of8B();
  const auto sizes_of = [&](Score score) {
    config.esa.score = score;
    return CudaSizes::Of(config, model, MakeAttentionContext(config, model, kRanks), /*sharers=*/1,
                         /*multiprocessors=*/132);
  };
  const CudaSizes sum = sizes_of(Score::kHeadSum), hard = sizes_of(Score::kHeadMax),
                  soft = sizes_of(Score::kSoftVote);
  EXPECT_FALSE(sum.votes);
  EXPECT_TRUE(hard.votes && soft.votes);
  EXPECT_EQ(sum.score_input_dim(), 1024);
  EXPECT_EQ(hard.score_input_dim(), 4096);
  // Queries of heads, this rank's and gathered ones, and of tokens; 8 rows of scores more; and
  // products with keys.
  const int64_t queries = (1 + kRanks) * hard.rows * 3072 * 2 + 16 * 3072 * 4;
  const int64_t products = 16 * 32 * hard.own_keys * 4;
  EXPECT_EQ(BytesOf(hard) - BytesOf(sum), queries + 8 * hard.own_tokens * 4 + products +
                                              16 * static_cast<int64_t>(sizeof(cuda::ScoredBlock)));
  // A maximum for each voter and not for all, digits of a sum, a weight.
  EXPECT_EQ(BytesOf(soft) - BytesOf(hard), kRanks * soft.rows * (31 * 4 + 32 * (16 + 4)));
}

TEST(CudaSizesTest, TheRopeTableHasAllPositions) {
  for (const int64_t far_position : {0, (1 << 20) - 1, 1 << 20, 3 << 20}) {
    const CudaSizes sizes = SizesOf(1, "device", Attention::kEsa, far_position);
    EXPECT_GT(sizes.rope_coarse * cuda::kRopeFine, std::max(sizes.max_tokens, far_position));
  }
}

// Dense, for the workspaces of selections are as large as the GPU wants them.
TEST(CudaTransformerTest, PlansEachAllocationInWholeGranules) {
  const CudaSizes sizes = SizesOf(2, "device", Attention::kDense);
  Arena arena, shared;
  CudaBuffers().Lay(sizes, &arena, &shared);
  const int64_t products = 32 << 20, rope = (1024 + 1025) * 64 * 8;
  EXPECT_EQ(CudaTransformer::Bytes(sizes),
            Granules(arena.bytes()) + Granules(shared.bytes()) + products + Granules(rope));
}

}  // namespace
}  // namespace longspan
