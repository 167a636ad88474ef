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
  EXPECT_THAT(choice.recalls, ElementsAre(0.95, 0.8, 0.9));
  EXPECT_NEAR(choice.mean_dim, 28.0 / 3, 1e-12);
  EXPECT_NEAR(choice.mean_recall, 2.65 / 3, 1e-12);
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

}  // namespace
}  // namespace longspan
