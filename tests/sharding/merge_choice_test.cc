#include "sharding/merge_choice.h"

#include "gtest/gtest.h"

namespace longspan {
namespace {

TEST(MergeChoiceTest, FewRanksGatherAndManyCount) {
  EXPECT_EQ(CheaperMerge(1, 1, 2048), MergeWay::kAllGather);
  EXPECT_EQ(CheaperMerge(2, 1, 2048), MergeWay::kAllGather);
  EXPECT_EQ(CheaperMerge(4096, 1, 2048), MergeWay::kHistogram);
  // More rows pay for the messages of a histogram with fewer ranks; few candidates never do.
  EXPECT_EQ(CheaperMerge(16, 1, 2048), MergeWay::kAllGather);
  EXPECT_EQ(CheaperMerge(16, 8, 2048), MergeWay::kHistogram);
  EXPECT_EQ(CheaperMerge(4096, 1, 1), MergeWay::kAllGather);
}

TEST(MergeChoiceTest, RatesDecide) {
  MergeRates slow_network;
  slow_network.step_s = 1;
  EXPECT_EQ(CheaperMerge(4096, 1, 2048, slow_network), MergeWay::kAllGather);
  MergeRates narrow_network;
  narrow_network.byte_s = 1e-6;
  EXPECT_EQ(CheaperMerge(16, 1, 2048, narrow_network), MergeWay::kHistogram);
}

// By hand, at 1 s a step and nothing else, then at 1 s a byte, then at 1 s a candidate.
TEST(MergeChoiceTest, CountsStepsBytesAndCandidates) {
  const MergeRates steps = {1, 0, 0}, bytes = {0, 1, 0}, candidates = {0, 0, 1};
  EXPECT_EQ(MergeSeconds(MergeWay::kAllGather, 5, 2, 100, steps), 3);
  EXPECT_EQ(MergeSeconds(MergeWay::kAllGather, 5, 2, 100, bytes), 5 * 2 * 100 * 8);
  EXPECT_EQ(MergeSeconds(MergeWay::kAllGather, 5, 2, 100, candidates), 5 * 2 * 100);
  EXPECT_EQ(MergeSeconds(MergeWay::kHistogram, 5, 2, 100, steps), 4 * 2 * 3);
  EXPECT_EQ(MergeSeconds(MergeWay::kHistogram, 5, 2, 100, bytes),
            2 * 3 * 2 * (8 + 4096 + 5 * 4 + (100 + 512) * 8));
  EXPECT_EQ(MergeSeconds(MergeWay::kHistogram, 5, 2, 100, candidates),
            2 * 100 + 2 * 100 + 2 * (100 + 512));
}

}  // namespace
}  // namespace longspan
