#include "sharding/prediction.h"

#include <algorithm>
#include <set>
#include <vector>

#include "gtest/gtest.h"
#include "tests/sharding/small_job.h"

namespace longspan {
namespace {

// A byte a second everywhere, latencies of 1000 s between hosts of two ranks, of 100 s within.
HardwareProfile EasyProfile() {
  HardwareProfile profile;
  profile.ranks_per_host = 2;
  profile.within_host = {.latency_s = 100, .bytes_per_s = 1};
  profile.between_hosts = {.latency_s = 1000, .bytes_per_s = 1};
  return profile;
}

TEST(PredictionTest, DrawsAreTopKOfTheMiddle) {
  const JobShape job = SmallJob(4);
  const Range middle = {4, 900};
  for (const SelectionSource& select : {DrawUniformly(job, 7), DrawFromRank(job, 2, 7)}) {
    const std::vector<int64_t> first = select({1000, 1016}, middle);
    EXPECT_EQ(first.size(), 24u);
    EXPECT_EQ(std::set<int64_t>(first.begin(), first.end()).size(), 24u);
    EXPECT_TRUE(std::is_sorted(first.begin(), first.end()));
    for (const int64_t p : first) EXPECT_TRUE(middle.contains(p));
    EXPECT_NE(select({1016, 1032}, middle), first);
  }
  EXPECT_EQ(DrawUniformly(job, 7)({}, middle), DrawUniformly(job, 7)({}, middle));
  EXPECT_NE(DrawUniformly(job, 7)({}, middle), DrawUniformly(job, 8)({}, middle));
  for (const int64_t p : DrawFromRank(job, 2, 7)({}, middle)) {
    EXPECT_EQ(job.layer.layout.owner(p), 2);
  }
  EXPECT_EQ(DrawUniformly(job, 7)({}, {4, 9}), (std::vector<int64_t>{4, 5, 6, 7, 8}));
  // Most of a range: what is left out is drawn.
  const std::vector<int64_t> most = DrawUniformly(job, 7)({}, {4, 34});
  EXPECT_EQ(std::set<int64_t>(most.begin(), most.end()).size(), 24u);
  EXPECT_TRUE(std::is_sorted(most.begin(), most.end()));
  EXPECT_GE(most.front(), 4);
  EXPECT_LT(most.back(), 34);
}

// One rank says nothing, so its time is that of its work.
TEST(PredictionTest, OneRankTakesTheTimeOfItsWork) {
  HardwareProfile profile = EasyProfile();
  profile.flops_per_s = 1e30;
  const JobShape job = SmallJob(1);
  const Prediction decode = PredictDecode(profile, job, {500}, DrawUniformly(job, 1));
  // Local top-k and merge read scores and candidates beside what DecodeWork counts.
  const double scores = 3 * (499 - 32 - 4) * 4.0 + 3 * 24 * 8.0;
  const double combined = 3 * 136.0;
  EXPECT_DOUBLE_EQ(decode.seconds, DecodeWork(job.model, 500, 1).bytes + scores + combined);
  EXPECT_EQ(decode.imbalance, 0);
  EXPECT_TRUE(decode.calls.empty());
}

TEST(PredictionTest, PhasesAddUpToTheTimeOfAnAverageRank) {
  for (const Backend backend : {Backend::kCpu, Backend::kGpu}) {
    JobShape job = SmallJob(4);
    job.backend = backend;
    const Prediction chunk =
        PredictChunk(EasyProfile(), job, {{640, 704}, 2000}, false, DrawUniformly(job, 1));
    double sum = 0;
    for (const double seconds : chunk.mean) sum += seconds;
    EXPECT_LE(sum, chunk.seconds * (1 + 1e-9));
    EXPECT_GT(sum, chunk.seconds * 0.5);
    EXPECT_GT(chunk.calls.at("select.queries").bytes, 0);
  }
}

TEST(PredictionTest, IsAFunctionOfTheSeed) {
  const JobShape job = SmallJob(4);
  const auto predict = [&](uint64_t seed) {
    return PredictDecode(EasyProfile(), job, {2000}, DrawUniformly(job, seed)).seconds;
  };
  EXPECT_EQ(predict(1), predict(1));
  EXPECT_NE(predict(1), predict(2));
}

TEST(PredictionTest, InterpolatesChunks) {
  const JobShape job = SmallJob(1);
  HardwareProfile profile = EasyProfile();
  double all = 0;
  for (int64_t begin = 0; begin < 5000; begin += 16) {
    all += PredictChunk(profile, job, {{begin, std::min<int64_t>(5000, begin + 16)}, 5000},
                        begin + 16 >= 5000, DrawUniformly(job, 1))
               .seconds;
  }
  EXPECT_NEAR(PredictPrompt(profile, job, 5000, DrawUniformly(job, 1), 30).seconds / all, 1, 0.01);
  EXPECT_NEAR(PredictPrompt(profile, job, 5000, DrawUniformly(job, 1), 1000).seconds / all, 1,
              1e-9);
  // One chunk alone, and one and a rest.
  for (const int64_t tokens : {16, 20, 32}) {
    EXPECT_GT(PredictPrompt(profile, job, tokens, DrawUniformly(job, 1)).seconds, 0);
  }
}

// Every chunk has one plan and one of each layer's calls, whichever of them are simulated.
TEST(PredictionTest, SamplesStandForAllChunks) {
  const JobShape job = SmallJob(4);
  for (const int64_t samples : {-1, 0, 1, 2, 3, 7, 15, 100}) {
    SCOPED_TRACE(samples);
    const auto calls =
        PredictPrompt(EasyProfile(), job, 64 * 16, DrawUniformly(job, 1), samples).calls;
    EXPECT_DOUBLE_EQ(calls.at("step.plan").calls, 16);
    EXPECT_DOUBLE_EQ(calls.at("store.halos").calls, 16.0 * 3);
    EXPECT_EQ(calls.at("prefill.logits").calls, 1);
  }
}

TEST(PredictionTest, CountsWhatAStepSaysOutsideItsLayers) {
  JobShape job = SmallJob(4);
  job.model.chunk_tokens = 256;
  const auto chunk = [&](int64_t end, bool is_last) {
    return PredictChunk(EasyProfile(), job, {{768, end}, 2000}, is_last, DrawUniformly(job, 1));
  };
  // 256 ids and 16 words; doubled once within hosts of two and once between two hosts.
  EXPECT_EQ(chunk(1024, false).calls.at("step.plan").bytes, 2 * 1024);
  EXPECT_EQ(chunk(1024, false).calls.at("step.plan.rest").bytes, 2 * 8 * (256 + 16 - 127));
  EXPECT_FALSE(chunk(1024, false).calls.contains("prefill.logits"));
  // Of four ranks' ports one sends all logits; the owner of the last token may be rank 0 itself.
  EXPECT_EQ(chunk(1024, true).calls.at("prefill.logits").bytes, 100 * 4 / 4);
  EXPECT_EQ(chunk(784, true).calls.at("prefill.logits").bytes, 0);
  const Prediction decode = PredictDecode(EasyProfile(), job, {500, 600}, DrawUniformly(job, 1));
  EXPECT_EQ(decode.calls.at("step.plan").calls, 1);
  EXPECT_FALSE(decode.calls.contains("step.plan.rest"));
  EXPECT_FALSE(decode.calls.contains("prefill.logits"));
}

TEST(PredictionTest, AllOnOneRankIsNoFaster) {
  JobShape job = SmallJob(8);
  HardwareProfile profile = EasyProfile();
  const double uniform = PredictDecode(profile, job, {5000}, DrawUniformly(job, 1)).seconds;
  EXPECT_GT(PredictDecode(profile, job, {5000}, DrawFromRank(job, 3, 1)).seconds, uniform);
}

}  // namespace
}  // namespace longspan
