#include "runtime/sampling.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <map>
#include <numeric>
#include <random>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace longspan {
namespace {

using ::testing::ElementsAre;
using ::testing::Pair;
using ::testing::SizeIs;

constexpr float kInf = std::numeric_limits<float>::infinity();
constexpr float kNan = std::numeric_limits<float>::quiet_NaN();

SamplingParams Params(double temperature, double top_p = 1) {
  SamplingParams params;
  params.temperature = temperature;
  params.top_p = top_p;
  return params;
}

int32_t Greedy(const std::vector<float>& logits) { return SampleToken(logits, Params(0), 1, 2); }

TEST(GreedyTest, TakesTheLargestAndOfEqualsTheLowestId) {
  EXPECT_EQ(Greedy({1, 5, 2}), 1);
  EXPECT_EQ(Greedy({1, 5, 5, 2, 5}), 1);
  EXPECT_EQ(Greedy({0.0f, -0.0f}), 0);
  EXPECT_EQ(Greedy({-0.0f, 0.0f}), 0);
  EXPECT_EQ(Greedy({3}), 0);
  EXPECT_EQ(Greedy({-kInf, -kInf, -1e30f}), 2);
  EXPECT_EQ(Greedy({1, kInf, 2, kInf}), 1);
}

TEST(GreedyTest, NanIsNeverTakenUnlessAlone) {
  EXPECT_EQ(Greedy({kNan, 1, kNan, 2, kNan}), 3);
  EXPECT_EQ(Greedy({kNan, kNan}), 0);
}

// Probabilities in double precision, and those of the nucleus, by the definition.
std::vector<double> Nucleus(const std::vector<float>& logits, double temperature, double top_p) {
  std::vector<double> weights;
  const float max = *std::max_element(logits.begin(), logits.end());
  for (const float logit : logits) weights.push_back(std::exp((logit - max) / temperature));
  const double total = std::accumulate(weights.begin(), weights.end(), 0.0);
  std::vector<size_t> order(weights.size());
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(),
                   [&](size_t a, size_t b) { return weights[a] > weights[b]; });
  std::vector<double> kept(weights.size(), 0.0);
  double sum = 0;
  for (const size_t token : order) {
    if (sum > 0 && sum >= top_p * total) break;
    kept[token] = weights[token];
    sum += weights[token];
  }
  for (double& weight : kept) weight /= sum;
  return kept;
}

// Chi-square over `draws` draws. 5 standard deviations above its mean is exceeded about once in a
// million trials, and the seeds are fixed.
void ExpectDistribution(const std::vector<double>& probabilities, const std::vector<int>& counts,
                        int draws) {
  double chi_square = 0;
  int degrees = -1;
  for (size_t t = 0; t < counts.size(); ++t) {
    const double expected = probabilities[t] * draws;
    if (expected == 0) {
      EXPECT_EQ(counts[t], 0) << "token " << t << " is outside the nucleus";
      continue;
    }
    chi_square += (counts[t] - expected) * (counts[t] - expected) / expected;
    ++degrees;
  }
  EXPECT_LE(chi_square, degrees + 5 * std::sqrt(2.0 * degrees) + 10);
}

TEST(SamplingTest, DrawsFromTheNucleus) {
  const std::vector<float> logits = {0.5f, 2.0f, -1.0f, 2.0f, 0.0f, 1.5f, -3.0f, 1.0f};
  const int draws = 40000;
  for (const double temperature : {0.5, 1.0, 2.0}) {
    for (const double top_p : {1.0, 0.9, 0.5, 0.2, 0.0}) {
      const std::vector<double> expected = Nucleus(logits, temperature, top_p);
      std::vector<int> by_position(logits.size(), 0), by_seed(logits.size(), 0);
      for (int i = 0; i < draws; ++i) {
        ++by_position[SampleToken(logits, Params(temperature, top_p), 42, i)];
        ++by_seed[SampleToken(logits, Params(temperature, top_p), i, 42)];
      }
      SCOPED_TRACE(testing::Message() << "temperature " << temperature << ", top_p " << top_p);
      ExpectDistribution(expected, by_position, draws);
      ExpectDistribution(expected, by_seed, draws);
    }
  }
}

// Successive draws are independent: pairs are distributed as the product.
TEST(SamplingTest, SuccessiveDrawsAreIndependent) {
  const std::vector<float> logits(4, 0.0f);
  const int draws = 40000;
  std::vector<int> pairs(16, 0);
  for (int i = 0; i < draws; ++i) {
    const int first = SampleToken(logits, Params(1), 7, 2 * i);
    ++pairs[4 * first + SampleToken(logits, Params(1), 7, 2 * i + 1)];
  }
  ExpectDistribution(std::vector<double>(16, 1.0 / 16), pairs, draws);
}

TEST(SamplingTest, IsAFunctionOfLogitsSeedAndPosition) {
  std::mt19937 random(1);
  std::vector<float> logits(100);
  for (float& logit : logits) logit = std::normal_distribution<float>()(random);
  std::map<int, int> differing;
  for (int64_t position = 0; position < 200; ++position) {
    const int32_t token = SampleToken(logits, Params(1), 5, position);
    SampleToken({1, 2, 3}, Params(1), 9, position);  // another of the batch
    EXPECT_EQ(SampleToken(logits, Params(1), 5, position), token);
    differing[0] += SampleToken(logits, Params(1), 6, position) != token;
    differing[1] += SampleToken(logits, Params(1), 5, position + 1) != token;
  }
  EXPECT_GT(differing[0], 100);
  EXPECT_GT(differing[1], 100);
}

TEST(SamplingTest, TinyTemperatureIsGreedy) {
  const std::vector<float> logits = {1, 3, 2.9f, -5};
  for (int i = 0; i < 100; ++i) EXPECT_EQ(SampleToken(logits, Params(1e-300), 3, i), 1);
}

TEST(SamplingTest, NanAndInfinityAreNeverDrawnByAccident) {
  for (int i = 0; i < 200; ++i) {
    const int32_t token = SampleToken({kNan, 1, -kInf, 1, kNan}, Params(1), 3, i);
    EXPECT_TRUE(token == 1 || token == 3) << token;
    EXPECT_EQ(SampleToken({1, kInf, 1}, Params(1), 3, i), 1);
    EXPECT_EQ(SampleToken({kNan, kNan}, Params(1), 3, i), 0);
    EXPECT_EQ(SampleToken({-kInf, -kInf}, Params(1), 3, i), 0);
  }
}

TEST(LogprobsTest, EqualTheLogSoftmax) {
  std::mt19937 random(2);
  for (const float scale : {1.0f, 30.0f, 1000.0f}) {
    std::vector<float> logits(50);
    for (float& logit : logits) logit = scale * std::normal_distribution<float>()(random);
    const double max = *std::max_element(logits.begin(), logits.end());
    double total = 0;
    for (const float logit : logits) total += std::exp(logit - max);
    const TokenLogprobs all = ComputeLogprobs(logits, 17, 50);
    EXPECT_NEAR(all.logprob, logits[17] - max - std::log(total), 1e-9 * scale);
    ASSERT_THAT(all.top, SizeIs(50));
    double probability = 0;
    for (size_t i = 0; i < all.top.size(); ++i) {
      EXPECT_NEAR(all.top[i].second, ComputeLogprobs(logits, all.top[i].first, 0).logprob, 1e-9);
      EXPECT_GE(all.top[i > 0 ? i - 1 : 0].second, all.top[i].second);
      probability += std::exp(all.top[i].second);
    }
    EXPECT_NEAR(probability, 1, 1e-9);
  }
}

TEST(LogprobsTest, TopIsInOrderOfLikelihoodThenId) {
  const TokenLogprobs logprobs = ComputeLogprobs({0, 1, 0, 1}, 0, 3);
  const double high = -std::log(2 + 2 * std::exp(-1.0));
  using ::testing::DoubleNear;
  EXPECT_THAT(logprobs.top,
              ElementsAre(Pair(1, DoubleNear(high, 1e-12)), Pair(3, DoubleNear(high, 1e-12)),
                          Pair(0, DoubleNear(high - 1, 1e-12))));
}

TEST(LogprobsTest, NoMoreThanTheVocabulary) {
  EXPECT_THAT(ComputeLogprobs({0, 1}, 1, 20).top, SizeIs(2));
  EXPECT_THAT(ComputeLogprobs({0, 1}, 1, 0).top, SizeIs(0));
}

TEST(LogprobsTest, ImpossibleTokensHaveMinusInfinity) {
  const TokenLogprobs logprobs = ComputeLogprobs({-kInf, 0}, 0, 2);
  EXPECT_EQ(logprobs.logprob, -kInf);
  EXPECT_THAT(logprobs.top, ElementsAre(Pair(1, 0.0), Pair(0, -kInf)));
}

}  // namespace
}  // namespace longspan
