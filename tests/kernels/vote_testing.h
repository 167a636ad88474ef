#ifndef LONGSPAN_TESTS_KERNELS_VOTE_TESTING_H_
#define LONGSPAN_TESTS_KERNELS_VOTE_TESTING_H_

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <vector>

#include "gtest/gtest.h"
#include "kernels/cuda/vote_score.h"
#include "kernels/reference/reference.h"
#include "kernels/vote.h"
#include "sharding/layer_schedule.h"
#include "tests/kernels/kernel_testing.h"
#include "tests/kernels/score_pages.h"

// What the tests of voters on GPUs have in common, of prefill chunks and of decoded tokens.
namespace longspan::cuda {

// Heads that share the slices of keys, or groups of dimensions, each with its own.
inline Voters Heads(int64_t kv_heads, int64_t group, int64_t dim, bool soft = true) {
  return {.count = kv_heads * group,
          .dim = dim,
          .to_a_slice = group,
          .scale = static_cast<float>(1 / std::sqrt(static_cast<double>(dim))),
          .soft = soft};
}
inline Voters Groups(int64_t count, int64_t dim) { return Heads(count, 1, dim); }

// Numbers of one rank's norms. Of what ranks do together the test does the reductions.
struct RankNorms {
  RankNorms(const Voters& of, int64_t rows)
      : voters(of),
        maxima(Poisoned(num_maxima(rows) * 4)),
        sums(Poisoned(num_sums(rows) * 4)),
        weights(Poisoned(of.count * rows * 4)) {
    norms = {rows, maxima.as<float>(), sums.as<uint32_t>(), weights.as<float>()};
    EXPECT_TRUE(ClearVoteNorms(voters, norms, nullptr).ok());
  }
  int64_t num_maxima(int64_t rows) const { return (voters.soft ? voters.count : 1) * rows; }
  int64_t num_sums(int64_t rows) const { return voters.count * rows * kVoteSumDigits; }

  Voters voters;
  Buffer maxima, sums, weights;
  VoteNorms norms;
};

// What all ranks agree on. [voters, rows]; of hard voters one maximum, and nothing else.
struct Agreed {
  std::vector<float> maxima;
  std::vector<uint64_t> sums;
  std::vector<float> weights;
};

// As AllReduceMax: NaN counts as -inf.
inline void AgreeOnMaxima(std::vector<RankNorms>* ranks, Agreed* agreed) {
  const int64_t count = (*ranks)[0].num_maxima((*ranks)[0].norms.rows);
  agreed->maxima.assign(count, -kInf);
  for (const RankNorms& rank : *ranks) {
    const auto own = Download<float>(rank.maxima.data(), count);
    for (int64_t i = 0; i < count; ++i) {
      if (own[i] > agreed->maxima[i]) agreed->maxima[i] = own[i];
    }
  }
  for (RankNorms& rank : *ranks) {
    ASSERT_TRUE(Copy(rank.maxima.data(), agreed->maxima.data(), count * 4, nullptr).ok());
  }
}

// After each rank's own sums; blocks: device, of which weights are made.
inline void AgreeOnWeights(const ScoredBlock* blocks, int num_blocks, std::vector<RankNorms>* ranks,
                           Agreed* agreed) {
  const int64_t rows = (*ranks)[0].norms.rows, count = (*ranks)[0].num_sums(rows);
  std::vector<uint32_t> digits(count, 0);
  for (RankNorms& rank : *ranks) {
    ASSERT_TRUE(SplitVoteSums(rank.voters, rank.norms, nullptr).ok());
    const auto own = Download<uint32_t>(rank.sums.data(), count);
    for (int64_t i = 0; i < count; ++i) {
      ASSERT_LT(own[i], 1u << 16);
      digits[i] += own[i];
    }
  }
  for (int64_t i = 0; i < count; i += kVoteSumDigits) {
    uint64_t sum = 0;
    for (int64_t d = 0; d < kVoteSumDigits; ++d) sum += uint64_t{digits[i + d]} << 16 * d;
    agreed->sums.push_back(sum);
  }
  for (RankNorms& rank : *ranks) {
    ASSERT_TRUE(Copy(rank.sums.data(), digits.data(), count * 4, nullptr).ok());
    ASSERT_TRUE(WeighVotes(rank.voters, rank.norms, blocks, num_blocks, nullptr).ok());
  }
  agreed->weights = Download<float>((*ranks)[0].weights.data(), (*ranks)[0].voters.count * rows);
}

// The same kinds, and finite numbers within `tolerance` of their own size.
inline void ExpectRelativelyClose(absl::Span<const float> actual, absl::Span<const double> expected,
                                  double tolerance) {
  ASSERT_EQ(actual.size(), expected.size());
  for (size_t i = 0; i < actual.size(); ++i) {
    ASSERT_EQ(KindOf(actual[i]), KindOf(expected[i]))
        << "at " << i << ": " << actual[i] << " for " << expected[i];
    if (KindOf(actual[i]) != Kind::kFinite) continue;
    ASSERT_LE(std::abs(actual[i] - expected[i]), tolerance * std::abs(expected[i]) + 1e-12)
        << "at " << i << " of " << actual.size() << ": " << actual[i] << " for " << expected[i];
  }
}

// One block, or one token: its queries [count, query_dim], and the keys of its middle.
struct Poll {
  Voters voters;
  std::vector<float> queries;
  std::vector<float> keys;  // [tokens, key_dim]
  Range middle;
  int64_t first_row = 0;  // of `rows` rows of the norms
  int64_t rows = 0;

  int64_t count() const { return static_cast<int64_t>(queries.size()) / voters.query_dim(); }
  ScoreKeys middle_keys() const {
    return {keys.data() + middle.begin * voters.key_dim(), DType::kFloat32, middle.size()};
  }
  // [count, dim]
  std::vector<float> QueriesOf(int64_t voter) const {
    std::vector<float> of_voter;
    for (int64_t c = 0; c < count(); ++c) {
      const auto first = queries.begin() + c * voters.query_dim() + voter * voters.dim;
      of_voter.insert(of_voter.end(), first, first + voters.dim);
    }
    return of_voter;
  }
  // The block's part of what all ranks agreed on: [voters, count].
  template <typename T>
  std::vector<T> Part(const std::vector<T>& agreed) const {
    std::vector<T> part;
    for (size_t first = 0; first < agreed.size(); first += rows) {
      const auto from = agreed.begin() + static_cast<int64_t>(first) + first_row;
      part.insert(part.end(), from, from + count());
    }
    return part;
  }

  void CheckMaxima(const Agreed& agreed, double tolerance) const {
    std::vector<double> expected;
    for (int64_t v = 0; v < voters.count; ++v) {
      if (voters.soft || v == 0) expected.resize(expected.size() + count(), -kInf);
      reference::ScoreMaxima(QueriesOf(v).data(), count(), voters.dim,
                             SliceOf(voters, v, middle_keys()),
                             expected.data() + expected.size() - count());
    }
    SCOPED_TRACE("maxima");
    ExpectClose(Part(agreed.maxima), expected, tolerance);
  }
  // At those maxima.
  void CheckSums(const Agreed& agreed, double tolerance) const {
    const int bits = SumBits(middle.size());
    const std::vector<float> maxima = Part(agreed.maxima);
    const std::vector<uint64_t> sums = Part(agreed.sums);
    std::vector<float> actual, weights;
    for (const uint64_t sum : sums) {
      actual.push_back(static_cast<float>(std::ldexp(static_cast<double>(sum), -bits)));
      weights.push_back(VoteWeight(static_cast<int64_t>(sum), bits));
    }
    std::vector<double> expected(sums.size(), 0.0);
    for (int64_t v = 0; v < voters.count; ++v) {
      reference::VoteSums(QueriesOf(v).data(), count(), voters.dim,
                          SliceOf(voters, v, middle_keys()), maxima.data() + v * count(),
                          voters.scale, expected.data() + v * count());
    }
    SCOPED_TRACE("sums and weights");
    ExpectRelativelyClose(actual, expected, tolerance);
    ExpectSameBits(Part(agreed.weights), weights);
  }
  // F of the middle, at those maxima and weights. Without maxima: hard voters' largest score.
  std::vector<double> Scores(const Agreed& agreed) const {
    const std::vector<float> maxima = Part(agreed.maxima);
    std::vector<double> scores(middle.size(), kNan);
    if (voters.soft) {
      std::vector<float> by_voter;
      for (int64_t v = 0; v < voters.count; ++v) {
        const std::vector<float> of_voter = QueriesOf(v);
        by_voter.insert(by_voter.end(), of_voter.begin(), of_voter.end());
      }
      reference::VoteBlock(voters, by_voter.data(), count(), middle_keys(), maxima.data(),
                           Part(agreed.weights).data(), scores.data());
      return scores;
    }
    for (int64_t v = 0; v < voters.count; ++v) {
      const std::vector<double> f = reference::Scores(QueriesOf(v).data(), count(), voters.dim,
                                                      SliceOf(voters, v, middle_keys()));
      for (int64_t i = 0; i < count() * middle.size(); ++i) {
        const double maximum = maxima.empty() ? 0 : maxima[i / middle.size()];
        double& score = scores[i % middle.size()];
        score = std::fmax(score, f[i] - maximum);
      }
    }
    return scores;
  }
};

}  // namespace longspan::cuda

#endif  // LONGSPAN_TESTS_KERNELS_VOTE_TESTING_H_
