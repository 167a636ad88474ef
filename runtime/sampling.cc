#include "runtime/sampling.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <vector>

namespace longspan {
namespace {

// SplitMix64 (Steele, Lea and Flood, OOPSLA 2014): a good 64-bit mix of a counter.
uint64_t Mix(uint64_t x) {
  x += 0x9e3779b97f4a7c15u;
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
  x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
  return x ^ (x >> 31);
}

// Uniform in [0, 1).
double Uniform(uint64_t seed, int64_t position) {
  const uint64_t bits = Mix(Mix(seed) ^ static_cast<uint64_t>(position));
  return static_cast<double>(bits >> 11) * 0x1p-53;
}

// Descending logit, then ascending id; NaN last.
auto LikelierThan(absl::Span<const float> logits) {
  return [logits](int32_t a, int32_t b) {
    const float x = std::isnan(logits[a]) ? -INFINITY : logits[a];
    const float y = std::isnan(logits[b]) ? -INFINITY : logits[b];
    return x > y || (x == y && a < b);
  };
}

std::vector<int32_t> AllTokens(absl::Span<const float> logits) {
  std::vector<int32_t> tokens(logits.size());
  std::iota(tokens.begin(), tokens.end(), 0);
  return tokens;
}

}  // namespace

int32_t LikeliestToken(absl::Span<const float> logits) {
  const auto likelier = LikelierThan(logits);
  int32_t best = 0;
  for (int32_t token = 1; token < static_cast<int32_t>(logits.size()); ++token) {
    if (likelier(token, best)) best = token;
  }
  return best;
}

int32_t SampleToken(absl::Span<const float> logits, const SamplingParams& params, uint64_t seed,
                    int64_t position) {
  if (params.temperature == 0) return LikeliestToken(logits);
  std::vector<int32_t> tokens = AllTokens(logits);
  const auto likelier = LikelierThan(logits);
  if (params.top_k > 0 && params.top_k < static_cast<int64_t>(tokens.size())) {
    std::partial_sort(tokens.begin(), tokens.begin() + params.top_k, tokens.end(), likelier);
    tokens.resize(params.top_k);
  } else {
    std::sort(tokens.begin(), tokens.end(), likelier);
  }
  std::vector<double> weights(tokens.size());
  double total = 0;
  for (size_t i = 0; i < tokens.size(); ++i) {
    const double difference = static_cast<double>(logits[tokens[i]]) - logits[tokens[0]];
    weights[i] = std::isnan(difference) ? 0 : std::exp(difference / params.temperature);
    total += weights[i];
  }
  // The nucleus: the first tokens whose weight reaches its share of the total.
  double nucleus = 0;
  size_t kept = 0;
  while (kept < tokens.size() && (kept == 0 || nucleus < params.top_p * total)) {
    nucleus += weights[kept++];
  }
  double rest = Uniform(seed, position) * nucleus;
  for (size_t i = 0; i < kept; ++i) {
    rest -= weights[i];
    if (rest < 0) return tokens[i];
  }
  return tokens[kept - 1];
}

TokenLogprobs ComputeLogprobs(absl::Span<const float> logits, int32_t token, int64_t num_top) {
  const auto likelier = LikelierThan(logits);
  std::vector<int32_t> tokens = AllTokens(logits);
  const int64_t count = std::min<int64_t>(num_top, static_cast<int64_t>(tokens.size()));
  std::partial_sort(tokens.begin(), tokens.begin() + count, tokens.end(), likelier);
  const double max = logits[LikeliestToken(logits)];
  double total = 0;
  for (const float logit : logits) total += std::exp(static_cast<double>(logit) - max);
  const double log_total = max + std::log(total);
  TokenLogprobs result;
  result.logprob = logits[token] - log_total;
  for (int64_t i = 0; i < count; ++i) {
    result.top.emplace_back(tokens[i], logits[tokens[i]] - log_total);
  }
  return result;
}

}  // namespace longspan
