#include "runtime/sgd_fit.h"

#include <cmath>
#include <random>
#include <vector>

#include "gtest/gtest.h"

namespace longspan {
namespace {

constexpr int64_t kWidth = 6;
constexpr int64_t kRows = 256;

// Rows whose first two numbers are most of them.
std::vector<float> MakeRows(uint32_t seed) {
  std::mt19937 generator(seed);
  std::vector<float> rows(kRows * kWidth);
  for (size_t i = 0; i < rows.size(); ++i) {
    const double unit = static_cast<double>(generator()) * 0x1p-31 - 1;
    rows[i] = static_cast<float>(unit * (i % kWidth < 2 ? 5 : 0.1));
  }
  return rows;
}

// The map as its formula stands.
double Plain(const RowMap& map, const float* row, int64_t column) {
  double out = 0;
  if (map.hidden == 0) {
    for (int64_t i = 0; i < map.width; ++i) out += row[i] * map.second[i * map.dim + column];
    return out;
  }
  for (int64_t h = 0; h < map.hidden; ++h) {
    double x = map.bias[h];
    for (int64_t i = 0; i < map.width; ++i) x += row[i] * map.first[i * map.hidden + h];
    out += x / (1 + std::exp(-x)) * map.second[h * map.dim + column];
  }
  return out;
}

double MeanSquaredError(const ScoreMaps& maps, const std::vector<float>& queries,
                        const std::vector<float>& keys, int64_t rows = kRows) {
  double error = 0;
  for (int64_t q = 0; q < rows; ++q) {
    for (int64_t k = 0; k < rows; ++k) {
      double exact = 0, approximate = 0;
      for (int64_t i = 0; i < kWidth; ++i) exact += queries[q * kWidth + i] * keys[k * kWidth + i];
      for (int64_t c = 0; c < maps.key.dim; ++c) {
        approximate +=
            Plain(maps.query, &queries[q * kWidth], c) * Plain(maps.key, &keys[k * kWidth], c);
      }
      error += (exact - approximate) * (exact - approximate);
    }
  }
  return error / static_cast<double>(rows * rows);
}

SgdOptions Fast() { return {.learning_rate = 0.01, .batch = 32, .epochs = 60, .seed = 3}; }

class FitBySgdTest : public ::testing::TestWithParam<int64_t> {};

TEST_P(FitBySgdTest, GradientsAreThoseOfFiniteDifferences) {
  constexpr int64_t kBatch = 16, kDim = 2;
  const int64_t hidden = GetParam();
  const std::vector<float> queries = MakeRows(1), keys = MakeRows(2);
  const std::vector<float> some_queries(queries.begin(), queries.begin() + kBatch * kWidth);
  const std::vector<float> some_keys(keys.begin(), keys.begin() + kBatch * kWidth);
  ScoreMaps maps = FitBySgd(queries.data(), keys.data(), kRows, kWidth, hidden, kDim,
                            {.batch = 32, .epochs = 1, .seed = 5}, nullptr);
  ScoreMaps gradient = GradientOfLoss(maps, some_queries, some_keys, kBatch);
  for (const auto map : {&ScoreMaps::query, &ScoreMaps::key}) {
    for (const auto part : {&RowMap::first, &RowMap::bias, &RowMap::second}) {
      std::vector<float>& values = maps.*map.*part;
      const std::vector<float>& analytic = gradient.*map.*part;
      ASSERT_EQ(analytic.size(), values.size());
      for (size_t i = 0; i < values.size(); ++i) {
        const float value = values[i];
        values[i] = value + 1e-3f;
        const double above = MeanSquaredError(maps, some_queries, some_keys, kBatch);
        const double upper = values[i];
        values[i] = value - 1e-3f;
        const double below = MeanSquaredError(maps, some_queries, some_keys, kBatch);
        const double numeric = (above - below) / (upper - values[i]);
        values[i] = value;
        EXPECT_NEAR(analytic[i], numeric, 1e-2 + 1e-3 * std::abs(numeric)) << i;
      }
    }
  }
}

// Linear and two-layer maps. All dot products have a mean square near 140.
TEST_P(FitBySgdTest, LearnsTheDotProducts) {
  const std::vector<float> queries = MakeRows(1), keys = MakeRows(2);
  SgdOptions untrained = Fast();
  untrained.epochs = 0;
  const auto fit = [&](const SgdOptions& options) {
    return FitBySgd(queries.data(), keys.data(), kRows, kWidth, GetParam(), 2, options, nullptr);
  };
  EXPECT_GT(MeanSquaredError(fit(untrained), queries, keys), 50);
  EXPECT_LT(MeanSquaredError(fit(Fast()), queries, keys), 2);
}

TEST_P(FitBySgdTest, AppliesAsItsFormulaSays) {
  const std::vector<float> queries = MakeRows(1), keys = MakeRows(2);
  const ScoreMaps maps =
      FitBySgd(queries.data(), keys.data(), kRows, kWidth, GetParam(), 3, Fast(), nullptr);
  const std::vector<float> mapped = Apply(maps.key, keys.data(), kRows);
  ASSERT_EQ(mapped.size(), kRows * 3);
  for (int64_t r = 0; r < kRows; ++r) {
    for (int64_t c = 0; c < 3; ++c) {
      EXPECT_NEAR(mapped[r * 3 + c], Plain(maps.key, &keys[r * kWidth], c), 1e-4);
    }
  }
}

TEST_P(FitBySgdTest, DependsOnTheSeedAlone) {
  const std::vector<float> queries = MakeRows(1), keys = MakeRows(2);
  const auto fit = [&](uint64_t seed) {
    SgdOptions options = Fast();
    options.epochs = 1;
    options.seed = seed;
    return FitBySgd(queries.data(), keys.data(), kRows, kWidth, GetParam(), 2, options, nullptr)
        .key.second;
  };
  EXPECT_EQ(fit(3), fit(3));
  EXPECT_NE(fit(3), fit(4));
}

INSTANTIATE_TEST_SUITE_P(Hidden, FitBySgdTest, ::testing::Values(0, 8));

TEST(FitBySgdTest, FewerRowsThanABatch) {
  const std::vector<float> queries = MakeRows(1), keys = MakeRows(2);
  double last = 0;
  const ScoreMaps maps = FitBySgd(queries.data(), keys.data(), 3, kWidth, 0, 2, Fast(),
                                  [&](double share) { last = share; });
  EXPECT_EQ(last, 1);
  for (const float value : maps.key.second) EXPECT_TRUE(std::isfinite(value));
}

TEST(FitBySgdTest, ZeroRowsStayFinite) {
  const std::vector<float> zeros(kRows * kWidth);
  const ScoreMaps maps = FitBySgd(zeros.data(), zeros.data(), kRows, kWidth, 4, 2, Fast(), nullptr);
  for (const float value : maps.query.second) EXPECT_TRUE(std::isfinite(value));
}

}  // namespace
}  // namespace longspan
