#include "kernels/representatives.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "gtest/gtest.h"
#include "kernels/reference/reference.h"
#include "tests/kernels/kernel_testing.h"

namespace longspan {
namespace {

std::vector<float> Representative(const Stored& keys, int64_t count, int64_t dim, int64_t r) {
  std::vector<float> out(dim, -12345.0f);
  MeanRepresentative(keys.Keys(0, count, dim), dim, r, out.data());
  return out;
}

TEST(RepresentativesTest, EqualReferenceAtRandomShapes) {
  Random random(1);
  for (int trial = 0; trial < 200; ++trial) {
    const int64_t count = random.Integer(1, 40), dim = random.Integer(1, 70);
    const int64_t representatives = random.Integer(1, 45);
    const Stored keys(random.Reals(count * dim),
                      random.OneOf({DType::kFloat32, DType::kBFloat16, DType::kFloat8E4M3}));
    std::vector<double> expected(dim);
    reference::MeanRepresentative(keys.Keys(0, count, dim), dim, representatives, expected.data());
    ExpectClose(Representative(keys, count, dim, representatives), expected, 1e-5);
    if (HasFatalFailure()) return;
  }
}

TEST(RepresentativesTest, TheFarthestFromTheMeanRepresent) {
  const Stored keys({0, 1, 0, 8, -9, 0}, DType::kFloat32);
  EXPECT_EQ(Representative(keys, 6, 1, 1), std::vector<float>{-9});
  EXPECT_EQ(Representative(keys, 6, 1, 2), std::vector<float>{-0.5});
  EXPECT_EQ(Representative(keys, 6, 1, 6), Representative(keys, 6, 1, 100));
}

TEST(RepresentativesTest, OfEquallyFarKeysTheFirstRepresent) {
  const Stored keys({-1, 1, -1, 1}, DType::kFloat32);
  EXPECT_EQ(Representative(keys, 4, 1, 1), std::vector<float>{-1});
  EXPECT_EQ(Representative(keys, 4, 1, 3), std::vector<float>{-1.0f / 3});
}

TEST(RepresentativesTest, NanIsFarFromNothing) {
  const Stored keys({1, kNan, 5}, DType::kFloat32);  // the mean is NaN, and so is every distance
  EXPECT_EQ(Representative(keys, 3, 1, 1), std::vector<float>{1});
  EXPECT_TRUE(std::isnan(Representative(keys, 3, 1, 2)[0]));
}

}  // namespace
}  // namespace longspan
