#include "runtime/calibration.h"

#include <cmath>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "collectives/agree.h"
#include "collectives/thread_communicator.h"
#include "gtest/gtest.h"
#include "kernels/base/status_macros.h"
#include "runtime/model.h"

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
  EXPECT_NEAR(factors->explained, 1, 1e-12);
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
  EXPECT_LT(factors->explained, 1);
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

constexpr char kModel[] = LONGSPAN_SOURCE_DIR "/tests/runtime/testdata/models/llama_f16";

CalibrationReport CalibrateOn(int ranks, int64_t tokens, ScoreTarget target = ScoreTarget::kDot,
                              int64_t dim = 4) {
  Config config;
  config.model = kModel;
  config.esa.compressed_dim = dim;
  config.esa.target = target;
  config.esa.far_position = 300;
  config.esa.top_k = 16;
  config.esa.selection_block = 16;
  config.prefill_chunk_tokens = 64;
  EXPECT_TRUE(ResolveConfig(ranks, &config).ok());
  std::vector<CalibrationReport> reports(ranks);
  const absl::Status ran = RunThreadRanks(ranks, [&](Communicator& communicator) -> absl::Status {
    std::mt19937 generator(3);
    int64_t left = tokens;
    const auto next = [&](int64_t max) -> absl::StatusOr<std::vector<int32_t>> {
      std::vector<int32_t> window(std::min(max, left));
      left -= static_cast<int64_t>(window.size());
      for (int32_t& id : window) id = static_cast<int32_t>(generator() % 250);
      return window;
    };
    auto report = Calibrate(config, communicator, next, nullptr);
    if (report.ok()) reports[communicator.rank()] = *std::move(report);
    return report.status();
  });
  EXPECT_TRUE(ran.ok()) << ran;
  return reports.back();
}

TEST(CalibrateTest, EveryRankHasTheErrorOfTheText) {
  Config config;
  config.model = std::string(LONGSPAN_SOURCE_DIR) + "/tests/runtime/testdata/models/llama_f16";
  config.esa.compressed_dim = 4;
  ASSERT_TRUE(ResolveConfig(2, &config).ok());
  std::vector<absl::Status> statuses(2);
  const absl::Status ran = RunThreadRanks(2, [&](Communicator& communicator) -> absl::Status {
    const auto fails = [](int64_t) -> absl::StatusOr<std::vector<int32_t>> {
      return absl::DataLossError("torn");
    };
    statuses[communicator.rank()] = Calibrate(config, communicator, fails, nullptr).status();
    return absl::OkStatus();
  });
  EXPECT_TRUE(ran.ok()) << ran;
  for (const absl::Status& status : statuses) {
    EXPECT_EQ(status.message(), "torn");
    EXPECT_TRUE(IsAgreed(status));
  }
}

TEST(CalibrateTest, RanksShareTheWorkAndAgree) {
  const CalibrationReport one = CalibrateOn(1, 9000);
  const CalibrationReport three = CalibrateOn(3, 9000);
  ASSERT_EQ(one.layers.size(), 2);
  ASSERT_EQ(three.layers.size(), 2);
  EXPECT_EQ(one.tokens, three.tokens);
  EXPECT_LT(one.tokens, 9000) << "no window was held out";
  for (size_t layer = 0; layer < one.layers.size(); ++layer) {
    EXPECT_NEAR(one.layers[layer].factors.explained, three.layers[layer].factors.explained, 1e-6);
    EXPECT_GT(one.layers[layer].recall, 0.2);
    EXPECT_LE(one.layers[layer].recall, 1);
  }
}

// At full width A B^T is all of the map from queries to keys: the identity, or the rotation.
TEST(CalibrateTest, TheFarTargetIsTheRotatedQuery) {
  const ModelConfig model = *LoadModelConfig(kModel);
  const int64_t width = model.num_kv_heads * model.head_dim;
  Rope rope(InverseFrequencies(model.rope, model.head_dim));
  for (const ScoreTarget target : {ScoreTarget::kDot, ScoreTarget::kFar}) {
    const CalibrationReport report = CalibrateOn(2, 9000, target, width);
    for (const CalibrationReport::Layer& layer : report.layers) {
      EXPECT_GT(layer.recall, 0.95);
      for (int64_t r = 0; r < width; ++r) {
        std::vector<float> expected(width, 0.0f);
        expected[r] = 1;
        if (target == ScoreTarget::kFar) {
          rope.Rotate(expected.data(), model.num_kv_heads, 300, expected.data());
        }
        for (int64_t s = 0; s < width; ++s) {
          double product = 0;
          for (int64_t c = 0; c < width; ++c) {
            product += static_cast<double>(layer.factors.query[r * width + c]) *
                       layer.factors.key[s * width + c];
          }
          EXPECT_NEAR(product, expected[s], 1e-2) << r << ", " << s;
        }
      }
    }
  }
}

// Each has a model of its own, but not a host.
TEST(LoadModelTest, RanksThatRunAloneShareTheirHost) {
  Config config;
  config.model = LONGSPAN_SOURCE_DIR "/tests/runtime/testdata/models/llama_f16";
  config.attention = Attention::kDense;
  config.max_model_len = 512;
  ASSERT_EQ(ResolveConfig(/*num_ranks=*/1, &config), absl::OkStatus());
  const auto load = [&config](Communicator& world, Communicator& alone) -> absl::Status {
    Config own = config;
    LONGSPAN_ASSIGN_OR_RETURN(const std::unique_ptr<Model> model,
                              LoadModel(&world, &own, WeightsAtOnce::kAll, &alone));
    EXPECT_EQ(model->memory.weights, CountWeights(model->weights).bytes / 2);
    EXPECT_EQ(model->attention.communicator, &alone);
    EXPECT_EQ(model->attention.layout.num_ranks, 1);
    return absl::OkStatus();
  };
  const absl::Status status = RunThreadRanks(2, [&](Communicator& world) {
    return RunThreadRanks(1, [&](Communicator& alone) { return load(world, alone); });
  });
  EXPECT_EQ(status, absl::OkStatus());
}

}  // namespace
}  // namespace longspan
