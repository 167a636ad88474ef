#include "launcher/bench_serve_load.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <limits>
#include <vector>

namespace longspan {
namespace {

TEST(ArrivalTimes, AreAPoissonProcessOfTheSeed) {
  constexpr int64_t kCount = 20'000;
  const std::vector<double> times = ArrivalTimes(kCount, 4, 1);
  ASSERT_EQ(times.size(), kCount);
  EXPECT_EQ(times[0], 0);
  EXPECT_TRUE(std::is_sorted(times.begin(), times.end()));
  EXPECT_NEAR(times.back(), kCount / 4.0, 0.03 * kCount / 4.0);
  // Of exponential gaps 1 - 1/e are shorter than the mean.
  int64_t shorter = 0;
  for (size_t i = 1; i < times.size(); ++i) shorter += times[i] - times[i - 1] < 0.25;
  EXPECT_NEAR(static_cast<double>(shorter) / kCount, 0.632, 0.02);

  EXPECT_EQ(ArrivalTimes(kCount, 4, 1), times);
  EXPECT_NE(ArrivalTimes(kCount, 4, 2), times);
}

TEST(ArrivalTimes, AllAtOnce) {
  const double all = std::numeric_limits<double>::infinity();
  EXPECT_THAT(ArrivalTimes(3, all, 1), testing::ElementsAre(0, 0, 0));
  EXPECT_THAT(ArrivalTimes(1, 5, 1), testing::ElementsAre(0));
  EXPECT_THAT(ArrivalTimes(0, 5, 1), testing::IsEmpty());
}

}  // namespace
}  // namespace longspan
