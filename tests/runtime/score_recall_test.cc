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

TEST(CountCommonTest, CountsWhatIsInBoth) {
  EXPECT_EQ(CountCommon({1, 2, 5}, {2, 5, 6}), 2);
  EXPECT_EQ(CountCommon({}, {1}), 0);
}

TEST(RecallOfTest, IsTheShareOfTheExactTopKOfEachQuery) {
  // The second number alone, which a fit of one dimension is to keep, orders keys 3 1 2 0; both
  // together 0 3 1 2, and for the second query 3 1 2 0.
  const HeldOut window = {{1, 1, 0, 1}, {9, 0, 0, 2, 0, 1, 0, 3}};
  const auto column = [](float first, float second) {
    const RowMap map = {2, 0, 1, {}, {}, {first, second}};
    return ScoreFit{{map, map}, 0};
  };
  const ScoreFit identity = {{{2, 0, 2, {}, {}, {1, 0, 0, 1}}, {2, 0, 2, {}, {}, {1, 0, 0, 1}}}, 0};
  const std::vector<ScoreFit> fits = {column(0, 1), identity, column(1, 0)};
  // The last: of the first query key 0 and, as the others tie, key 1; of the second 0 and 1, where
  // 3 and 1 are right.
  EXPECT_THAT(RecallOf(window, 2, 2, fits), ElementsAre(0.75, 1, 0.5));
  EXPECT_THAT(RecallOf(window, 2, 4, fits), ElementsAre(1, 1, 1));
}

}  // namespace
}  // namespace longspan
