#include "runtime/score_fit.h"

#include <algorithm>
#include <cmath>
#include <random>
#include <vector>

#include "gtest/gtest.h"
#include "kernels/rope.h"
#include "runtime/rope_config.h"

namespace longspan {
namespace {

constexpr int64_t kWidth = 6;

struct Rows {
  std::vector<float> queries, keys;
  int64_t count;
};

// Correlated normal rows; keys have a large mean.
Rows MakeRows(int64_t count) {
  std::mt19937 generator(5);
  std::normal_distribution<float> normal;
  Rows rows = {std::vector<float>(count * kWidth), std::vector<float>(count * kWidth), count};
  for (int64_t r = 0; r < count; ++r) {
    float q = 0, k = 0;
    for (int64_t i = 0; i < kWidth; ++i) {
      q = 0.6f * q + normal(generator) * static_cast<float>(1 + i);
      k = 0.3f * k + normal(generator) * static_cast<float>(kWidth - i);
      rows.queries[r * kWidth + i] = q;
      rows.keys[r * kWidth + i] = k + 20;
    }
  }
  return rows;
}

// Mean squared error of the approximate scores, each query's mean over the keys taken out.
double CentredError(const Rows& rows, const LayerFactors& factors, int64_t dim) {
  double error = 0;
  for (int64_t q = 0; q < 200; ++q) {
    std::vector<double> difference(rows.count);
    double mean = 0;
    for (int64_t k = 0; k < rows.count; ++k) {
      double exact = 0, approximate = 0;
      for (int64_t i = 0; i < kWidth; ++i) {
        exact += static_cast<double>(rows.queries[q * kWidth + i]) * rows.keys[k * kWidth + i];
      }
      for (int64_t c = 0; c < dim; ++c) {
        double a = 0, b = 0;
        for (int64_t i = 0; i < kWidth; ++i) {
          a += static_cast<double>(factors.query[i * dim + c]) * rows.queries[q * kWidth + i];
          b += static_cast<double>(factors.key[i * dim + c]) * rows.keys[k * kWidth + i];
        }
        approximate += a * b;
      }
      difference[k] = exact - approximate;
      mean += difference[k] / static_cast<double>(rows.count);
    }
    for (const double d : difference) error += (d - mean) * (d - mean);
  }
  return error / (200.0 * static_cast<double>(rows.count));
}

TEST(FitFactorsTest, FullWidthReproducesTheScore) {
  const Rows rows = MakeRows(400);
  LayerMoments moments(kWidth);
  moments.Add(rows.queries.data(), rows.keys.data(), rows.count, kWidth);
  const auto factors = FitFactors(moments, kWidth, kWidth);
  ASSERT_TRUE(factors.ok()) << factors.status();
  EXPECT_NEAR(ScoreVariance(moments, kWidth).Explained(*factors, kWidth), 1, 1e-5);
  EXPECT_LT(CentredError(rows, *factors, kWidth), 1e-4);
}

TEST(FitFactorsTest, FoldedFactorsRotateTheQuery) {
  const RopeConfig rope;
  constexpr int64_t kHeadDim = kWidth / 3, kPosition = 5, kDim = 4;
  const Rows rows = MakeRows(50);
  LayerMoments moments(kWidth);
  moments.Add(rows.queries.data(), rows.keys.data(), rows.count, kWidth);
  const auto factors = FitFactors(moments, kWidth, kDim);
  ASSERT_TRUE(factors.ok()) << factors.status();
  LayerFactors folded = *factors;
  FoldRotation(rope, kHeadDim, kPosition, kDim, &folded);
  EXPECT_EQ(folded.key, factors->key);
  Rope rotation(InverseFrequencies(rope, kHeadDim));
  for (int64_t r = 0; r < rows.count; ++r) {
    const float* query = rows.queries.data() + r * kWidth;
    float rotated[kWidth];
    rotation.Rotate(query, kWidth / kHeadDim, kPosition, rotated);
    for (int64_t c = 0; c < kDim; ++c) {
      double expected = 0, actual = 0;
      for (int64_t i = 0; i < kWidth; ++i) {
        expected += static_cast<double>(factors->query[i * kDim + c]) * rotated[i];
        actual += static_cast<double>(folded.query[i * kDim + c]) * query[i];
      }
      EXPECT_NEAR(actual, expected, 1e-4 * std::max(1.0, std::abs(expected)));
    }
  }
}

TEST(FitFactorsTest, NoNeighbouringMapDoesBetter) {
  // The closed form minimises the centred error: any small change of A or B must not lower it.
  const Rows rows = MakeRows(400);
  LayerMoments moments(kWidth);
  moments.Add(rows.queries.data(), rows.keys.data(), 150, kWidth);  // in parts, as windows come
  moments.Add(rows.queries.data() + 150 * kWidth, rows.keys.data() + 150 * kWidth, 250, kWidth);
  const int64_t dim = 2;
  const auto factors = FitFactors(moments, kWidth, dim);
  ASSERT_TRUE(factors.ok()) << factors.status();
  // The error is estimated on the fit's own keys but on 200 of its queries, hence the margin.
  const double best = CentredError(rows, *factors, dim);
  std::mt19937 generator(6);
  std::normal_distribution<float> normal;
  int worse = 0;
  for (int trial = 0; trial < 40; ++trial) {
    LayerFactors changed = *factors;
    for (float& value : changed.query) value *= 1 + 0.3f * normal(generator);
    for (float& value : changed.key) value *= 1 + 0.3f * normal(generator);
    worse += CentredError(rows, changed, dim) > best;
  }
  EXPECT_EQ(worse, 40);
}

LayerMoments MomentsOf(const Rows& rows) {
  LayerMoments moments(kWidth);
  moments.Add(rows.queries.data(), rows.keys.data(), rows.count, kWidth);
  return moments;
}

TEST(FitFactorsTest, FirstColumnsAreTheFitOfFewer) {
  const LayerMoments moments = MomentsOf(MakeRows(400));
  const auto four = FitFactors(moments, kWidth, 4);
  const auto two = FitFactors(moments, kWidth, 2);
  ASSERT_TRUE(four.ok() && two.ok());
  const LayerFactors first = FirstColumns(*four, kWidth, 2);
  EXPECT_EQ(first.query, two->query);
  EXPECT_EQ(first.key, two->key);
}

TEST(FitPcaTest, ColumnsAreOrthonormalAndKeepTheMostVariance) {
  const Rows rows = MakeRows(400);
  const auto pca = FitPca(MomentsOf(rows), kWidth, kWidth);
  ASSERT_TRUE(pca.ok()) << pca.status();
  EXPECT_EQ(pca->query, pca->key);
  std::vector<double> variances;
  for (int64_t i = 0; i < kWidth; ++i) {
    for (int64_t j = 0; j < kWidth; ++j) {
      double product = 0;
      for (int64_t r = 0; r < kWidth; ++r) {
        product += static_cast<double>(pca->key[r * kWidth + i]) * pca->key[r * kWidth + j];
      }
      EXPECT_NEAR(product, i == j ? 1 : 0, 1e-6);
    }
    double sum = 0, squares = 0;
    for (int64_t k = 0; k < rows.count; ++k) {
      double value = 0;
      for (int64_t r = 0; r < kWidth; ++r) {
        value += static_cast<double>(pca->key[r * kWidth + i]) * rows.keys[k * kWidth + r];
      }
      sum += value;
      squares += value * value;
    }
    const double count = static_cast<double>(rows.count);
    variances.push_back(squares / count - sum / count * (sum / count));
  }
  EXPECT_TRUE(std::is_sorted(variances.rbegin(), variances.rend()));
  EXPECT_GT(variances.front(), 2 * variances.back());
}

TEST(FitPcaTest, TheClosedFormKeepsMoreOfTheScores) {
  const Rows rows = MakeRows(400);
  const LayerMoments moments = MomentsOf(rows);
  const auto pca = FitPca(moments, kWidth, 2);
  const auto closed_form = FitFactors(moments, kWidth, 2);
  ASSERT_TRUE(pca.ok() && closed_form.ok());
  const ScoreVariance variance(moments, kWidth);
  EXPECT_LT(variance.Explained(*pca, 2), variance.Explained(*closed_form, 2));
  EXPECT_LT(CentredError(rows, *closed_form, 2), CentredError(rows, *pca, 2));
  EXPECT_EQ(FitPca(moments, kWidth, kWidth + 1).status().code(),
            absl::StatusCode::kInvalidArgument);
}

TEST(ScoreVarianceTest, IsThatOfTheRows) {
  const Rows rows = MakeRows(200);  // as many as CentredError takes queries of
  const LayerMoments moments = MomentsOf(rows);
  const ScoreVariance variance(moments, kWidth);
  const LayerFactors nothing = {std::vector<float>(kWidth), std::vector<float>(kWidth)};
  EXPECT_NEAR(variance.Explained(nothing, 1), 0, 1e-12);
  const double all = CentredError(rows, nothing, 1);
  for (const int64_t dim : {1, 2, 4, 6}) {
    for (const auto& fit : {FitFactors(moments, kWidth, dim), FitPca(moments, kWidth, dim)}) {
      ASSERT_TRUE(fit.ok());
      const double expected = 1 - CentredError(rows, *fit, dim) / all;
      EXPECT_NEAR(variance.Explained(*fit, dim), expected, 1e-5);
    }
  }
}

TEST(FitFactorsTest, RefusesWhatCannotBeFitted) {
  LayerMoments moments(kWidth);
  EXPECT_EQ(FitFactors(moments, kWidth, 2).status().code(), absl::StatusCode::kInvalidArgument);
  const Rows rows = MakeRows(50);
  moments.Add(rows.queries.data(), rows.keys.data(), rows.count, kWidth);
  EXPECT_EQ(FitFactors(moments, kWidth, kWidth + 1).status().code(),
            absl::StatusCode::kInvalidArgument);
}

TEST(FitFactorsTest, ConstantKeysDoNotDivideByZero) {
  Rows rows = MakeRows(50);
  rows.keys.assign(rows.keys.size(), 3.0f);
  LayerMoments moments(kWidth);
  moments.Add(rows.queries.data(), rows.keys.data(), rows.count, kWidth);
  const auto factors = FitFactors(moments, kWidth, 2);
  ASSERT_TRUE(factors.ok()) << factors.status();
  for (const float value : factors->query) EXPECT_TRUE(std::isfinite(value));
  for (const float value : factors->key) EXPECT_TRUE(std::isfinite(value));
}

}  // namespace
}  // namespace longspan
