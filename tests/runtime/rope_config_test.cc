#include "runtime/rope_config.h"

#include <algorithm>
#include <cmath>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "runtime/model.h"

namespace longspan {
namespace {

using ::testing::HasSubstr;

constexpr int64_t kHeadDim = 64;

ModelConfig TrainedOn(int64_t tokens) {
  ModelConfig model;
  model.head_dim = kHeadDim;
  model.max_position_embeddings = tokens;
  return model;
}

TEST(RopeConfigTest, NtkSlowsTheSlowestPairByTheFactorAndTheFastestNotAtAll) {
  const RopeConfig trained;
  const std::vector<double> before = InverseFrequencies(trained, kHeadDim);
  const std::vector<double> after =
      InverseFrequencies(StretchedByNtk(trained, kHeadDim, 8), kHeadDim);
  EXPECT_EQ(after.front(), before.front());
  EXPECT_NEAR(after.back() * 8, before.back(), 1e-12 * before.back());
  for (size_t i = 1; i < before.size(); ++i) {
    EXPECT_LT(after[i], before[i]) << i;
    EXPECT_GT(after[i] * 8, before[i] * (1 - 1e-9)) << i;
  }
  EXPECT_EQ(StretchedByNtk(trained, kHeadDim, 1).theta, trained.theta);
  EXPECT_EQ(InverseFrequencies(StretchedByNtk(trained, 2, 8), 2), InverseFrequencies(trained, 2));
}

TEST(RopeConfigTest, YarnKeepsFastPairsAndStretchesSlowOnes) {
  const RopeConfig trained;
  const RopeConfig stretched = StretchedByYarn(trained, 2048, 16);
  EXPECT_NEAR(stretched.attention_factor, 0.1 * std::log(16.0) + 1, 1e-12);
  const std::vector<double> before = InverseFrequencies(trained, kHeadDim);
  const std::vector<double> after = InverseFrequencies(stretched, kHeadDim);
  for (size_t i = 0; i < before.size(); ++i) {
    const double turns = 2048 * before[i] / (2 * M_PI);
    // The borders are rounded to whole pairs, of which one turns 1.33 times as often as the next.
    if (turns > 43) {
      EXPECT_EQ(after[i], before[i]) << i;
    } else if (turns < 0.75) {
      EXPECT_NEAR(after[i] * 16, before[i], 1e-12) << i;
    }
  }
}

TEST(RopeConfigTest, TheFactorIsThatOfTheLengthUnlessStated) {
  Config config;
  config.rope.scaling = RopeStretch::kYarn;
  config.max_model_len = 6144;
  ModelConfig model = TrainedOn(2048);
  ASSERT_TRUE(StretchRope(config, &model).ok());
  EXPECT_EQ(model.rope.factor, 3);
  EXPECT_EQ(model.rope.original_context, 2048);
  EXPECT_EQ(model.max_position_embeddings, 6144);

  config.rope.factor = 4;
  model = TrainedOn(2048);
  ASSERT_TRUE(StretchRope(config, &model).ok());
  EXPECT_EQ(model.rope.factor, 4);
  EXPECT_EQ(model.max_position_embeddings, 8192);
}

TEST(RopeConfigTest, WhatFitsTheTrainedContextIsNotStretched) {
  for (const RopeStretch scaling : {RopeStretch::kNone, RopeStretch::kNtk, RopeStretch::kYarn}) {
    Config config;
    config.rope.scaling = scaling;
    config.max_model_len = 1000;
    ModelConfig model = TrainedOn(2048);
    ASSERT_TRUE(StretchRope(config, &model).ok());
    EXPECT_EQ(InverseFrequencies(model.rope, kHeadDim), InverseFrequencies({}, kHeadDim));
    EXPECT_EQ(model.rope.attention_factor, 1);
    EXPECT_EQ(model.max_position_embeddings, 2048);
  }
}

TEST(RopeConfigTest, AModelsOwnScalingIsLeftAsItIs) {
  Config config;
  config.max_model_len = 4096;
  ModelConfig model = TrainedOn(2048);
  model.rope.scaling = RopeScaling::kLinear;
  model.rope.factor = 2;
  ASSERT_TRUE(StretchRope(config, &model).ok());
  for (const RopeStretch scaling : {RopeStretch::kNtk, RopeStretch::kYarn}) {
    config.rope.scaling = scaling;
    const absl::Status refused = StretchRope(config, &model);
    EXPECT_EQ(refused.code(), absl::StatusCode::kFailedPrecondition);
    EXPECT_THAT(refused.message(), HasSubstr("config.json has a RoPE scaling of its own"));
  }
  EXPECT_EQ(model.rope.factor, 2);
}

}  // namespace
}  // namespace longspan
