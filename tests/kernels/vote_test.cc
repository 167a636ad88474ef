#include "kernels/vote.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <vector>

#include "gtest/gtest.h"
#include "kernels/base/lane_gemm.h"
#include "kernels/reference/reference.h"
#include "sharding/sequence_layout.h"
#include "tests/kernels/kernel_testing.h"

namespace longspan {
namespace {

// Of exponentials of float scores, and of a share that is their sum over a few voters.
constexpr double kTolerance = 2e-5;

// Queries by voter, keys, and what the passes make of them.
struct Poll {
  Poll(const Voters& of, std::vector<float> query_rows, const std::vector<float>& key_rows,
       DType dtype)
      : voters(of),
        queries(std::move(query_rows)),
        num_queries(static_cast<int64_t>(queries.size()) / of.query_dim()),
        num_keys(static_cast<int64_t>(key_rows.size()) / of.key_dim()),
        stored(key_rows, dtype),
        panels(of.count * panel_size(), kNan) {
    for (int64_t v = 0; v < of.count; ++v) {
      PackQueries(queries.data() + v * num_queries * of.dim, num_queries, of.dim, of.dim,
                  panels.data() + v * panel_size());
    }
  }

  int64_t lanes() const { return NumPanels(num_queries) * kPanelLanes; }
  int64_t panel_size() const { return lanes() * voters.dim; }
  ScoreKeys keys(Range part) const {
    return stored.Keys(part.begin, part.size(), voters.key_dim());
  }
  ScoreKeys keys() const { return keys({0, num_keys}); }

  // [voters, lanes]
  std::vector<float> Maxima() const {
    std::vector<float> maxima(voters.count * lanes(), -kInf);
    for (int64_t v = 0; v < voters.count; ++v) {
      ScoreMaxima({panels.data() + v * panel_size(), NumPanels(num_queries), voters.dim,
                   SliceOf(voters, v, keys()), maxima.data() + v * lanes()});
    }
    return maxima;
  }
  void AddSums(Range part, const std::vector<float>& maxima, int bits,
               std::vector<int64_t>* sums) const {
    for (int64_t v = 0; v < voters.count; ++v) {
      VoteSums({panels.data() + v * panel_size(), NumPanels(num_queries), voters.dim,
                SliceOf(voters, v, keys(part)), maxima.data() + v * lanes(), voters.scale, bits,
                sums->data() + v * lanes()});
    }
  }
  std::vector<int64_t> Sums(const std::vector<float>& maxima, int bits) const {
    std::vector<int64_t> sums(voters.count * lanes(), 0);
    AddSums({0, num_keys}, maxima, bits, &sums);
    return sums;
  }
  // Of sums; NaN in lanes without a query.
  std::vector<float> Weights(const std::vector<int64_t>& sums, int bits) const {
    std::vector<float> weights;
    for (size_t i = 0; i < sums.size(); ++i) {
      const bool is_query = static_cast<int64_t>(i) % lanes() < num_queries;
      weights.push_back(is_query ? VoteWeight(sums[i], bits) : kNan);
    }
    return weights;
  }
  std::vector<float> Block(Range part, const std::vector<float>& maxima,
                           const std::vector<float>& weights) const {
    std::vector<float> scores(part.size(), -12345.0f);
    VoteBlock({voters, panels.data(), NumPanels(num_queries), keys(part), maxima.data(),
               weights.data(), scores.data()});
    return scores;
  }
  // [voters, num_queries] of [voters, lanes]
  template <typename T>
  std::vector<T> WithoutPadding(const std::vector<T>& of_lanes) const {
    std::vector<T> out;
    for (int64_t v = 0; v < voters.count; ++v) {
      const auto first = of_lanes.begin() + v * lanes();
      out.insert(out.end(), first, first + num_queries);
    }
    return out;
  }

  void ExpectAllAsReference() const {
    const int bits = SumBits(num_keys);
    const std::vector<float> maxima = Maxima();
    const std::vector<int64_t> sums = Sums(maxima, bits);
    const std::vector<float> of_queries = WithoutPadding(maxima);
    std::vector<double> expected(voters.count * num_queries, 0.0);
    std::vector<float> actual;
    for (const int64_t sum : WithoutPadding(sums)) {
      actual.push_back(static_cast<float>(std::ldexp(static_cast<double>(sum), -bits)));
    }
    for (int64_t v = 0; v < voters.count; ++v) {
      reference::VoteSums(queries.data() + v * num_queries * voters.dim, num_queries, voters.dim,
                          SliceOf(voters, v, keys()), of_queries.data() + v * num_queries,
                          voters.scale, expected.data() + v * num_queries);
    }
    ExpectClose(actual, expected, kTolerance);

    const std::vector<float> weights = Weights(sums, bits);
    std::vector<double> scores(num_keys);
    reference::VoteBlock(voters, queries.data(), num_queries, keys(), of_queries.data(),
                         WithoutPadding(weights).data(), scores.data());
    ExpectClose(Block({0, num_keys}, maxima, weights), scores, kTolerance);
  }

  Voters voters;
  std::vector<float> queries;  // [voters, num_queries, dim]
  int64_t num_queries;
  int64_t num_keys;
  Stored stored;
  std::vector<float> panels;  // [voters, panels]
};

Voters RandomVoters(Random* random) {
  const int64_t to_a_slice = random->Integer(1, 3);
  return {.count = to_a_slice * random->Integer(1, 3),
          .dim = random->OneOf<int64_t>({1, 2, 7, 8, 16, 33}),
          .to_a_slice = to_a_slice,
          .scale = random->Real(0.1f, 3.0f),
          .soft = true};
}

Poll RandomPoll(Random* random, int64_t queries, int64_t keys) {
  const Voters voters = RandomVoters(random);
  return Poll(voters, random->Reals(queries * voters.query_dim()),
              random->Reals(keys * voters.key_dim()),
              random->OneOf({DType::kFloat32, DType::kBFloat16, DType::kFloat8E4M3}));
}

TEST(VoteTest, EqualsReferenceAtRandomShapes) {
  Random random(1);
  for (int trial = 0; trial < 200; ++trial) {
    const int64_t queries = random.OneOf<int64_t>({1, 2, 7, 63, 64, 65, 130});
    const int64_t keys = random.OneOf<int64_t>({0, 1, 2, 5, 6, 7, 95, 96, 97, 200, 301});
    SCOPED_TRACE(testing::Message() << queries << " queries, " << keys << " keys");
    RandomPoll(&random, queries, keys).ExpectAllAsReference();
    if (HasFatalFailure()) return;
  }
}

TEST(VoteTest, SharesOfAVoterAddUpToOne) {
  Random random(2);
  const Poll poll = RandomPoll(&random, 1, 301);
  const std::vector<float> maxima = poll.Maxima();
  const int bits = SumBits(poll.num_keys);
  const std::vector<float> shares =
      poll.Block({0, 301}, maxima, poll.Weights(poll.Sums(maxima, bits), bits));
  EXPECT_NEAR(std::accumulate(shares.begin(), shares.end(), 0.0), poll.voters.count, 1e-4);
}

TEST(VoteTest, SumsAndVotesDoNotDependOnHowKeysAreParted) {
  Random random(3);
  for (int trial = 0; trial < 50; ++trial) {
    const int64_t keys = 300;
    const Poll poll = RandomPoll(&random, random.Integer(1, 70), keys);
    const std::vector<float> maxima = poll.Maxima();
    const int bits = SumBits(keys);
    const std::vector<int64_t> sums = poll.Sums(maxima, bits);
    Range part;
    part.begin = random.Integer(0, keys);
    part.end = random.Integer(part.begin, keys);
    std::vector<int64_t> in_parts(sums.size(), 0);
    for (const Range& run : {Range{part.end, keys}, Range{0, part.begin}, part}) {
      poll.AddSums(run, maxima, bits, &in_parts);
    }
    EXPECT_EQ(in_parts, sums);
    const std::vector<float> weights = poll.Weights(sums, bits);
    const std::vector<float> block = poll.Block({0, keys}, maxima, weights);
    ExpectSameBits(poll.Block(part, maxima, weights),
                   std::vector<float>(block.begin() + part.begin, block.begin() + part.end));
  }
}

TEST(VoteTest, EqualKeysScoreAlikeWhereverTheyLie) {
  Random random(4);
  const Voters voters = {.count = 4, .dim = 9, .to_a_slice = 2, .scale = 0.5f, .soft = true};
  const std::vector<float> key = random.Reals(voters.key_dim());
  std::vector<float> rows;
  for (int m = 0; m < 211; ++m) rows.insert(rows.end(), key.begin(), key.end());
  const Poll poll(voters, random.Reals(65 * voters.query_dim()), rows, DType::kFloat32);
  const std::vector<float> maxima = poll.Maxima();
  const int bits = SumBits(211);
  const std::vector<int64_t> sums = poll.Sums(maxima, bits);
  for (const int64_t sum : poll.WithoutPadding(sums)) EXPECT_EQ(sum, int64_t{211} << bits);
  const std::vector<float> block = poll.Block({0, 211}, maxima, poll.Weights(sums, bits));
  ExpectSameBits(block, std::vector<float>(211, block[0]));
  EXPECT_NEAR(block[0], 4.0 / 211, 1e-8);
}

TEST(VoteTest, SumsOfAsManyKeysAsThereMayBeFit) {
  for (const int64_t keys : {int64_t{0}, int64_t{1}, int64_t{1} << 17, int64_t{1} << 18,
                             (int64_t{1} << 24) - 1, int64_t{1} << 24, int64_t{1} << 40}) {
    const int bits = SumBits(keys);
    EXPECT_LE(bits, 44) << keys;
    EXPECT_LE(keys, (int64_t{1} << 62) >> bits) << keys;  // all at the maximum
    // The error that the header states, of the least sum.
    if (keys <= int64_t{1} << 20) {
      EXPECT_LE(std::ldexp(keys, -bits - 1), 2.5e-7) << keys;
    }
  }
}

// Keys and queries in which some numbers are NaN or infinite.
TEST(VoteTest, NanAndInfinityEqualReference) {
  Random random(5);
  for (int trial = 0; trial < 200; ++trial) {
    const Voters voters = RandomVoters(&random);
    std::vector<float> keys =
        random.Reals(random.OneOf<int64_t>({1, 7, 97, 130}) * voters.key_dim());
    std::vector<float> queries =
        random.Reals(random.OneOf<int64_t>({1, 3, 64, 66}) * voters.query_dim());
    const auto spoil = [&](std::vector<float>* values, int64_t count) {
      for (int64_t i = 0; i < count; ++i) {
        (*values)[random.Integer(0, static_cast<int64_t>(values->size()) - 1)] =
            random.OneOf({kNan, kInf, -kInf});
      }
    };
    spoil(&keys, random.Integer(0, 4));
    if (trial % 2 == 0) spoil(&queries, random.Integer(0, 3));
    Poll(voters, queries, keys, random.OneOf({DType::kFloat32, DType::kBFloat16}))
        .ExpectAllAsReference();
    if (HasFatalFailure()) return;
  }
}

TEST(VoteTest, NanKeyScoresNanThoughLanesAreEmpty) {
  Random random(6);
  const Voters voters = {.count = 2, .dim = 8, .scale = 1, .soft = true};
  std::vector<float> rows = random.Reals(50 * voters.key_dim());
  rows[7 * voters.key_dim() + 3] = kNan;
  for (const int64_t queries : {1, 63, 64, 65}) {
    const Poll poll(voters, random.Reals(queries * voters.query_dim()), rows, DType::kFloat32);
    const std::vector<float> maxima = poll.Maxima();
    const int bits = SumBits(50);
    const std::vector<float> scores =
        poll.Block({0, 50}, maxima, poll.Weights(poll.Sums(maxima, bits), bits));
    for (int64_t m = 0; m < 50; ++m) EXPECT_EQ(std::isnan(scores[m]), m == 7) << m;
  }
}

TEST(VoteTest, DecodeDoesAsABlockOfOneQuery) {
  Random random(7);
  for (const int64_t keys : {0, 1, 15, 16, 17, 95, 96, 97, 300}) {
    const Poll poll = RandomPoll(&random, 1, keys);
    const int bits = SumBits(keys);
    const std::vector<float> maxima = poll.Maxima();
    const std::vector<int64_t> sums = poll.Sums(maxima, bits);
    std::vector<float> votes(keys, 0.0f);
    for (int64_t v = 0; v < poll.voters.count; ++v) {
      std::vector<float> scores(keys);
      ScoreToken(poll.queries.data() + v * poll.voters.dim, poll.voters.dim,
                 SliceOf(poll.voters, v, poll.keys()), scores.data());
      const float maximum = keys == 0 ? 0 : *std::max_element(scores.begin(), scores.end());
      const float scale = poll.voters.scale;
      const int64_t sum = VoteSum(scores.data(), keys, maximum, scale, bits);
      EXPECT_NEAR(std::ldexp(sum, -bits), std::ldexp(sums[v * poll.lanes()], -bits), 1e-3);
      const int64_t half = keys / 2;
      EXPECT_EQ(VoteSum(scores.data() + half, keys - half, maximum, scale, bits) +
                    VoteSum(scores.data(), half, maximum, scale, bits),
                sum);
      AddVotes(scores.data(), keys, maximum, scale, VoteWeight(sum, bits), votes.data());
    }
    const std::vector<float> block = poll.Block({0, keys}, maxima, poll.Weights(sums, bits));
    ExpectClose(votes, std::vector<double>(block.begin(), block.end()), kTolerance);
  }
}

TEST(VoteTest, DecodePassesOverNan) {
  const std::vector<float> scores = {0.0f, kNan, -1.0f, -kInf};
  const int bits = 40;
  const int64_t sum = VoteSum(scores.data(), 4, 0, 1, bits);
  EXPECT_NEAR(std::ldexp(sum, -bits), 1 + std::exp(-1.0), 1e-7);
  std::vector<float> votes(4, 0.0f);
  AddVotes(scores.data(), 4, 0, 1, VoteWeight(sum, bits), votes.data());
  EXPECT_TRUE(std::isnan(votes[1]));
  EXPECT_EQ(votes[3], 0);
  EXPECT_EQ(VoteWeight(0, bits), 0);
}

}  // namespace
}  // namespace longspan
