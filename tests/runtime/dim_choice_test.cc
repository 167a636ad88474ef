#include "runtime/dim_choice.h"

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace longspan {
namespace {

using ::testing::ElementsAre;

// [dims 4, 8, 16][layers]: layer 0 gains late, layer 1 early, layer 2 nothing.
const std::vector<std::vector<double>> kRecalls = {
    {0.5, 0.5, 0.9}, {0.5, 0.8, 0.9}, {0.95, 0.85, 0.9}};
constexpr int64_t kDims[] = {4, 8, 16};

TEST(ChooseDimsTest, RaisesWhatGainsTheMostForEachNumber) {
  // Layer 1 to 8 gains 0.075 a number, layer 0 to 16 0.0375; 12 more are left for neither 3 x 8.
  const DimChoice choice = ChooseDims(kDims, kRecalls, 1, 10);
  EXPECT_THAT(choice.dims, ElementsAre(16, 8, 4));
  EXPECT_THAT(choice.indices, ElementsAre(2, 1, 0));
  EXPECT_NEAR(choice.mean_dim, 28.0 / 3, 1e-12);
  EXPECT_NEAR(choice.mean_recall, 2.65 / 3, 1e-12);
  EXPECT_FALSE(choice.reached);
}

TEST(ChooseDimsTest, StopsAtTheTarget) {
  EXPECT_THAT(ChooseDims(kDims, kRecalls, 0.7, 16).dims, ElementsAre(4, 8, 4));
  EXPECT_THAT(ChooseDims(kDims, kRecalls, 0.6, 16).dims, ElementsAre(4, 4, 4));
}

TEST(ChooseDimsTest, KeepsToTheBudgetAndBuysNothingThatGainsNothing) {
  EXPECT_THAT(ChooseDims(kDims, kRecalls, 1, 4).dims, ElementsAre(4, 4, 4));
  EXPECT_THAT(ChooseDims(kDims, kRecalls, 1, 5).dims, ElementsAre(4, 4, 4));
  EXPECT_THAT(ChooseDims(kDims, kRecalls, 1, 6).dims, ElementsAre(4, 8, 4));
  EXPECT_THAT(ChooseDims(kDims, kRecalls, 1, 1000).dims, ElementsAre(16, 16, 4));
}

TEST(ChooseDimsTest, ReachesWhatRoundingLeavesBelowTheTarget) {
  for (const double target : {1.0, 0.9, 0.7}) {
    const int64_t dims[] = {64, 128};
    const DimChoice choice = ChooseDims(
        dims, {std::vector<double>(6, target), std::vector<double>(6, 1.0)}, target, 128);
    EXPECT_TRUE(choice.reached) << target;
    EXPECT_THAT(choice.dims, ElementsAre(64, 64, 64, 64, 64, 64));
    const DimChoice misses = ChooseDims(
        dims, {std::vector<double>(6, target - 1e-3), std::vector<double>(6, target - 1e-6)},
        target, 128);
    EXPECT_FALSE(misses.reached) << target;
  }
}

TEST(ChooseDimsTest, CutsWhatTheLastStepOvershot) {
  // Layer 0 gains the most for each number by going to 16, after layer 1 has gone to 8; but then 4
  // is enough for layer 1.
  const DimChoice choice =
      ChooseDims(kDims, {{0.5, 0.5}, {0.5, 0.8}, {0.95, 0.8}}, /*recall_target=*/0.7, 16);
  EXPECT_TRUE(choice.reached);
  EXPECT_THAT(choice.dims, ElementsAre(16, 4));
}

}  // namespace
}  // namespace longspan
