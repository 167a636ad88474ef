#include "runtime/score_recall.h"

#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace longspan {
namespace {

using ::testing::ElementsAre;

TEST(SelectTopKeysTest, OrdersByDotProductAndThenByPosition) {
  // Scores of the first query: 1 5 5 -2 5; of the second: -1 -5 -5 2 -5.
  const std::vector<float> keys = {1, 9, 5, 9, 5, 9, -2, 9, 5, 9};
  EXPECT_THAT(SelectTopKeys({1, 0, -1, 0}, keys, 2, 2),
              ElementsAre(ElementsAre(1, 2), ElementsAre(0, 3)));
  EXPECT_THAT(SelectTopKeys({}, keys, 2, 2), ElementsAre());
}

TEST(CountCommonTest, CountsWhatEachQueryHasInBoth) {
  EXPECT_EQ(CountCommon({{1, 2, 5}, {0, 3}}, {{2, 5, 6}, {1, 2}}), 2);
  EXPECT_EQ(CountCommon({}, {}), 0);
}

}  // namespace
}  // namespace longspan
