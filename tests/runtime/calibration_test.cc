#include "runtime/calibration.h"

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

constexpr char kModel[] = LONGSPAN_SOURCE_DIR "/tests/runtime/testdata/models/llama_f16";

CalibrationReport CalibrateOn(int ranks, int64_t tokens, FitMethod method = FitMethod::kClosedForm,
                              ScoreTarget target = ScoreTarget::kDot, int64_t dim = 4) {
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
    auto report = Calibrate(config, communicator, next, nullptr, method,
                            {{.learning_rate = 0.01, .epochs = 2}, nullptr});
    if (report.ok()) reports[communicator.rank()] = *std::move(report);
    return report.status();
  });
  EXPECT_TRUE(ran.ok()) << ran;
  return reports.back();
}

TEST(CalibrateTest, EveryRankHasTheErrorOfTheText) {
  Config config;
  config.model = kModel;
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
  // 36 windows of 256, of which the last is short; 4, 15, 18, 29 and 32 are held out.
  EXPECT_EQ(one.held_out_windows, 5);
  EXPECT_EQ(one.tokens, 9000 - 5 * 256);
  for (size_t layer = 0; layer < one.layers.size(); ++layer) {
    const CalibrationReport::Layer& a = one.layers[layer];
    const CalibrationReport::Layer& b = three.layers[layer];
    EXPECT_NEAR(a.explained, b.explained, 1e-6);
    ASSERT_EQ(a.window_recalls.size(), 5);
    ASSERT_EQ(b.window_recalls.size(), 5);
    // Moments are summed in another order: a score or two may swap places.
    for (size_t w = 0; w < 5; ++w) EXPECT_NEAR(a.window_recalls[w], b.window_recalls[w], 0.02);
    EXPECT_NE(a.window_recalls[0], a.window_recalls[1]);
    EXPECT_GT(a.recall, 0.2);
    EXPECT_LT(a.recall, 1);
  }
}

TEST(CalibrateTest, GradientDescentGivesTheSameBitsOnEveryNumberOfRanks) {
  const CalibrationReport one = CalibrateOn(1, 9000, FitMethod::kSgd);
  const CalibrationReport three = CalibrateOn(3, 9000, FitMethod::kSgd);
  ASSERT_EQ(one.layers.size(), three.layers.size());
  for (size_t layer = 0; layer < one.layers.size(); ++layer) {
    EXPECT_EQ(one.layers[layer].factors.query, three.layers[layer].factors.query);
    EXPECT_EQ(one.layers[layer].factors.key, three.layers[layer].factors.key);
    EXPECT_EQ(one.layers[layer].window_recalls, three.layers[layer].window_recalls);
    EXPECT_GT(one.layers[layer].recall, 0.2);
  }
}

// At full width A B^T is all of the map from queries to keys: the identity, or the rotation.
TEST(CalibrateTest, TheFarTargetIsTheRotatedQuery) {
  const ModelConfig model = *LoadModelConfig(kModel);
  const int64_t width = model.num_kv_heads * model.head_dim;
  Rope rope(InverseFrequencies(model.rope, model.head_dim));
  for (const ScoreTarget target : {ScoreTarget::kDot, ScoreTarget::kFar}) {
    const CalibrationReport report = CalibrateOn(2, 9000, FitMethod::kClosedForm, target, width);
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
