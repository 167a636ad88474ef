#include "kernels/select.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "kernels/reference/reference.h"
#include "tests/kernels/kernel_testing.h"

namespace longspan {
namespace {

using ::testing::ElementsAre;

// Scores with many ties, zeros of both signs, infinities and NaN.
std::vector<float> TiedScores(Random* random, int64_t count) {
  std::vector<float> scores(count);
  for (float& score : scores) {
    score = random->OneOf({-0.0f, 0.0f, 1.0f, -1.0f, 1.0f, 2.0f, kInf, -kInf, kNan, 1e-40f,
                           std::nextafter(1.0f, 2.0f), random->Real()});
  }
  return scores;
}

void ExpectEqualMasked(const std::vector<float>& actual, const std::vector<float>& expected) {
  ExpectClose(actual, std::vector<double>(expected.begin(), expected.end()), 0);
}

TEST(ProximityTest, EqualsReferenceAtRandomWindows) {
  Random random(1);
  for (int trial = 0; trial < 500; ++trial) {
    const int64_t count = random.Integer(0, 80);
    const int64_t proximity = random.OneOf<int64_t>({0, 1, 2, 3, 4, 7, 8, 15, 16, 40, 100});
    const int64_t begin = random.Integer(0, count);
    const int64_t end = random.Integer(begin, count);
    const std::vector<float> scores =
        trial % 2 == 0 ? TiedScores(&random, count) : random.Reals(count);
    std::vector<float> actual(end - begin), expected(end - begin);
    Proximity(scores.data(), count, proximity, begin, end, actual.data());
    reference::Proximity(scores.data(), count, proximity, begin, end, expected.data());
    SCOPED_TRACE(testing::Message() << count << " scores, proximity " << proximity);
    ExpectEqualMasked(actual, expected);
    if (HasFatalFailure()) return;
  }
}

TEST(ProximityTest, NanIsPassedOverUnlessAlone) {
  const std::vector<float> scores = {kNan, kNan, kNan, -kInf, kNan, 3.0f, kNan};
  std::vector<float> spread(scores.size());
  Proximity(scores.data(), 7, 1, 0, 7, spread.data());
  ExpectEqualMasked(spread, {kNan, kNan, -kInf, -kInf, 3.0f, 3.0f, 3.0f});
}

std::vector<int64_t> Selected(TopK* top, int64_t k) {
  std::vector<Candidate> candidates(k);
  top->Take(candidates.data());
  std::sort(candidates.begin(), candidates.end(), std::greater<>());
  std::vector<int64_t> positions;
  for (const Candidate candidate : candidates) {
    if (candidate != 0) positions.push_back(PositionOf(candidate));
  }
  return positions;
}

TEST(TopKTest, EqualsReference) {
  Random random(2);
  for (int trial = 0; trial < 300; ++trial) {
    const int64_t count = random.OneOf<int64_t>({0, 1, 10, 100, 5000});
    const int64_t k = random.OneOf<int64_t>({0, 1, 2, 9, 10, 11, 300});
    const int64_t first = random.OneOf<int64_t>({0, 77, int64_t{1} << 31, kMaxPosition - count});
    const std::vector<float> scores =
        trial % 2 == 0 ? TiedScores(&random, count) : random.Reals(count);
    TopK top(k);
    for (int64_t i = 0; i < count;) {
      const int64_t n = std::min(count - i, random.Integer(0, 1500));
      top.Add(scores.data() + i, n, first + i);
      i += n;
    }
    ASSERT_EQ(Selected(&top, k), reference::TopK(scores, first, k)) << count << " " << k;
  }
}

// Every score lies in one narrow cluster, in the orders that are worst for a threshold; many more
// than any buffer holds.
TEST(TopKTest, KeepsTheRightOnesOfACluster) {
  const int64_t count = 50000, k = 256;
  for (const int step : {-1, 0, 1}) {
    std::vector<float> scores(count);
    for (int64_t i = 0; i < count; ++i) {
      scores[i] = 1.0f + static_cast<float>(step * i) * 0x1p-22f;
    }
    TopK top(k);
    top.Add(scores.data(), count, 0);
    EXPECT_EQ(Selected(&top, k), reference::TopK(scores, 0, k)) << step;
  }
}

TEST(TopKTest, EqualScoresGoByPosition) {
  const std::vector<float> scores(3000, -0.0f);
  TopK top(3);
  top.Add(scores.data(), 3000, 7000);  // the later positions first
  top.Add(scores.data(), 3000, 100);
  EXPECT_THAT(Selected(&top, 3), ElementsAre(100, 101, 102));
}

TEST(TopKTest, NanIsLastButCounts) {
  const std::vector<float> scores = {kNan, -kInf, kNan, 5.0f};
  TopK top(3);
  top.Add(scores.data(), 4, 0);
  EXPECT_THAT(Selected(&top, 3), ElementsAre(3, 1, 0));
}

TEST(TopKTest, BeginsAnewAfterTake) {
  const std::vector<float> high(5000, 9.0f), low(2, 1.0f);
  TopK top(2);
  top.Add(high.data(), 5000, 0);
  Selected(&top, 2);
  top.Add(low.data(), 2, 10);
  EXPECT_THAT(Selected(&top, 2), ElementsAre(10, 11));
  std::vector<Candidate> none(2, 1);
  top.Take(none.data());
  EXPECT_THAT(none, ElementsAre(0, 0));
}

}  // namespace
}  // namespace longspan
