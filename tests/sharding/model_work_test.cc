#include "sharding/model_work.h"

#include "gtest/gtest.h"

namespace longspan {
namespace {

ModelShape Small() {
  ModelShape shape;
  shape.layers = 2;
  shape.hidden = 8;
  shape.intermediate = 16;
  shape.vocab = 100;
  shape.heads = 4;
  shape.kv_heads = 2;
  shape.head_dim = 2;
  shape.weight_bytes = 2;
  shape.cache_bytes = 1;
  shape.score_bytes = 4;
  shape.sizes = {.initial_tokens = 2, .local_tokens = 8};
  shape.top_k = 4;
  shape.score_dim = 3;
  shape.block_tokens = 4;
  shape.chunk_tokens = 8;
  return shape;
}

TEST(ModelWorkTest, AProductReadsItsWeightAndRows) {
  const Work work = LinearWork(Small(), 5, 3, 7);
  EXPECT_EQ(work.bytes, 2 * (3 * 7 + 5 * 3 + 5 * 7));
  EXPECT_EQ(work.flops, 2 * 5 * 3 * 7);
}

TEST(ModelWorkTest, ProductsOfALayerAreKeysAndValuesAndTheRest) {
  const ModelShape shape = Small();
  const Work sum = KeyValueWork(shape, 3) + OtherLinearWork(shape, 3);
  EXPECT_EQ(sum.bytes, LayerLinearWork(shape, 3).bytes);
  EXPECT_EQ(sum.flops, LayerLinearWork(shape, 3).flops);
  // q and k, v, output, gate and up, down: 8 x (8 + 2 x 4) + 8 x 8 + 8 x 32 + 16 x 8 weights.
  EXPECT_EQ(LayerLinearWork(shape, 3).flops, 2 * 3 * (128 + 64 + 256 + 128));
}

TEST(ModelWorkTest, ScoresReadKeysOnceForAllQueries) {
  EXPECT_EQ(ScoreWork(Small(), 10, 5).bytes, 10 * 3 * 4);
  EXPECT_EQ(ScoreWork(Small(), 10, 5).flops, 2 * 10 * 3 * 5);
}

TEST(ModelWorkTest, AttentionReadsKeysAndValuesOfAllHeads) {
  EXPECT_EQ(AttendWork(Small(), 10, 30).bytes, 10 * 2 * 4);
  EXPECT_EQ(AttendWork(Small(), 10, 30).flops, 4 * 30 * 8);
}

TEST(ModelWorkTest, QueriesSeeTheirBlockCausally) {
  EXPECT_EQ(CausalPairs(1, 7), 7);
  EXPECT_EQ(CausalPairs(3, 7), 5 + 6 + 7);
}

TEST(ModelWorkTest, RanksShareWhatIsScoredAndAttendedTo) {
  const ModelShape shape = Small();
  ModelShape four = shape;
  four.ranks = 4;
  EXPECT_EQ(AttendedKeys(shape, 100), 2 + 4 + 8 + 1);
  EXPECT_EQ(DecodeScoreWork(shape, 100, 2).bytes, 2 * (99 - 8 - 2) * 3 * 4);
  EXPECT_EQ(DecodeScoreWork(four, 100, 2).bytes * 4, DecodeScoreWork(shape, 100, 2).bytes);
  EXPECT_EQ(DecodeAttendWork(four, 100, 2).flops * 4, DecodeAttendWork(shape, 100, 2).flops);
}

}  // namespace
}  // namespace longspan
