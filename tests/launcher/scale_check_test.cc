#include "launcher/scale_check.h"

#include <cmath>
#include <limits>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "launcher/scale_point.h"

namespace longspan {
namespace {

using ::testing::HasSubstr;

// Two prompts of four tokens each, of which two have log-probabilities.
ScalePoint PointOf(int64_t ranks) {
  ScalePoint point;
  point.key = {"esa", 64, 2, ranks};
  for (int32_t prompt = 0; prompt < 2; ++prompt) {
    ScaleOutput& output = point.outputs.emplace_back();
    output.tokens = {5, 6, 7, prompt};
    output.logprobs = {{-0.5, {{5, -0.5}, {9, -0.502}, {8, -3.0}}},
                       {-1.0, {{6, -1.0}, {9, -1.5}, {8, -2.0}}}};
  }
  point.digest = OutputsDigest(point.outputs);
  return point;
}

ScalePoint Changed(void (*change)(ScalePoint* point)) {
  ScalePoint point = PointOf(2);
  change(&point);
  point.digest = OutputsDigest(point.outputs);
  return point;
}

OutputCheck Check(const ScalePoint& point) {
  const ScalePoint reference = PointOf(1);
  return CheckOutputs(point, &reference);
}

TEST(ScaleCheckTest, OneRankIsWhatOthersAreComparedWith) {
  EXPECT_EQ(CheckOutputs(PointOf(1), nullptr).verdict, OutputVerdict::kReference);
  EXPECT_EQ(CheckOutputs(PointOf(2), nullptr).verdict, OutputVerdict::kNoReference);
  EXPECT_EQ(Check(PointOf(2)).verdict, OutputVerdict::kBitsEqual);
}

TEST(ScaleCheckTest, TheSmallestDifferenceIsNotTheSameBits) {
  const auto nudge = [](ScalePoint* point) {
    double& logprob = point->outputs[1].logprobs[1].top[2].second;
    logprob = std::nextafter(logprob, 0);
  };
  EXPECT_EQ(Check(Changed(nudge)).verdict, OutputVerdict::kTokensEqual);
  ScalePoint strict = Changed(nudge);
  strict.config["deterministic"] = "true";
  EXPECT_EQ(Check(strict).verdict, OutputVerdict::kDiffers);
}

TEST(ScaleCheckTest, LogprobsAreComparedWithinATolerance) {
  const ScalePoint point =
      Changed([](ScalePoint* p) { p->outputs[0].logprobs[0].top[1].second -= 0.05; });
  EXPECT_EQ(Check(point).verdict, OutputVerdict::kDiffers);
  EXPECT_THAT(Check(point).text, HasSubstr("at most 0.01 is rounding"));
  ScalePoint rounded = point;
  rounded.config["kv_cache.dtype"] = "bfloat16";
  EXPECT_EQ(Check(rounded).verdict, OutputVerdict::kTokensEqual);
  const ScalePoint nan = Changed([](ScalePoint* p) {
    p->outputs[0].logprobs[0].top[1].second = std::numeric_limits<double>::quiet_NaN();
  });
  EXPECT_EQ(Check(nan).verdict, OutputVerdict::kDiffers);
}

TEST(ScaleCheckTest, TokensMayPartWhereTheyAreEquallyLikely) {
  // 5 and 9 are 0.002 apart: what comes behind them has another text before it.
  const ScalePoint tie = Changed([](ScalePoint* p) {
    p->outputs[0].tokens = {9, 1, 2, 3};
    p->outputs[0].logprobs[1] = {-9, {{1, -9.0}}};
  });
  EXPECT_EQ(Check(tie).verdict, OutputVerdict::kWithin);
  const ScalePoint unlikely = Changed([](ScalePoint* p) { p->outputs[0].tokens[1] = 9; });
  EXPECT_EQ(Check(unlikely).verdict, OutputVerdict::kDiffers);
  EXPECT_THAT(Check(unlikely).text, HasSubstr("token 1 behind prompt 0 is 6 on one rank and 9"));
  const ScalePoint unknown = Changed([](ScalePoint* p) { p->outputs[0].tokens[0] = 77; });
  EXPECT_EQ(Check(unknown).verdict, OutputVerdict::kDiffers);
}

TEST(ScaleCheckTest, AMissingTokenIsADifference) {
  const ScalePoint shorter = Changed([](ScalePoint* p) { p->outputs[1].tokens.pop_back(); });
  EXPECT_EQ(Check(shorter).verdict, OutputVerdict::kDiffers);
}

TEST(ScaleCheckTest, AnEditedLineIsFound) {
  ScalePoint edited = PointOf(1);
  edited.outputs[0].tokens[3] = 1;
  EXPECT_EQ(CheckOutputs(edited, nullptr).verdict, OutputVerdict::kDiffers);
}

TEST(ScalePointTest, ALineHasEveryBitOfAPoint) {
  ScalePoint point = PointOf(2);
  point.hosts = {"a", "b"};
  point.slots = {1, 1};
  point.phases.resize(2);
  point.phases[1].decode.steps = 3;
  point.phases[1].decode.seconds.fill(kNotMeasured);
  point.phases[1].decode.calls["ring.step"] = {4, int64_t{1} << 50, 0.1};
  point.peak_bytes = {5, 6};
  point.prefill_s = point.chunks_s = point.first_token_s = point.decode_s = {1.0 / 3};
  const absl::StatusOr<ScalePoint> parsed =
      ParseScalePoint(nlohmann::json::parse(ToJson(point).dump()));
  ASSERT_TRUE(parsed.ok()) << parsed.status();
  EXPECT_EQ(parsed->key, point.key);
  EXPECT_EQ(parsed->outputs, point.outputs);
  EXPECT_EQ(OutputsDigest(parsed->outputs), point.digest);
  EXPECT_EQ(parsed->decode_s, point.decode_s);
  EXPECT_TRUE(std::isnan(parsed->phases[1].decode.seconds[0]));
  EXPECT_EQ(parsed->phases[0].decode.seconds[0], 0);
  EXPECT_EQ(parsed->phases[1].decode.calls.at("ring.step").bytes_sent, int64_t{1} << 50);
  EXPECT_FALSE(parsed->oversubscribed());
  EXPECT_EQ(parsed->num_hosts(), 2);
}

TEST(ScalePointTest, IncompleteLinesAreRefused) {
  ScalePoint point = PointOf(2);  // without hosts, phases and times
  point.prefill_s = point.chunks_s = point.first_token_s = point.decode_s = {1};
  EXPECT_FALSE(ParseScalePoint(nlohmann::json::parse(ToJson(point).dump())).ok());
}

}  // namespace
}  // namespace longspan
