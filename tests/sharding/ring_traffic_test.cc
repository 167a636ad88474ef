#include "sharding/ring_traffic.h"

#include <map>
#include <random>
#include <utility>
#include <vector>

#include "gtest/gtest.h"

namespace longspan {
namespace {

class RingTrafficTest : public testing::Test {
 protected:
  int64_t Integer(int64_t low, int64_t high) {
    return std::uniform_int_distribution<int64_t>(low, high)(random_);
  }

  SequenceLayout AnyLayout() { return {Integer(1, 16), static_cast<int>(Integer(1, 9))}; }

  // Selected tokens sparse, in runs, or none; blocks of one rank may share what they read.
  std::vector<BlockKeys> AnyBlocks(int num_ranks) {
    std::vector<BlockKeys> blocks(Integer(0, 6));
    for (BlockKeys& block : blocks) {
      block.rank = static_cast<int>(Integer(0, num_ranks - 1));
      const int64_t lo = Integer(0, 3) == 0 ? 0 : Integer(0, 200);
      block.queries = Integer(1, 16);
      block.near = {lo, lo + block.queries + Integer(0, 120)};
      const int64_t step = Integer(1, 12);
      for (int64_t p = 0; p < lo; p += Integer(1, step)) block.far.push_back(p);
    }
    return blocks;
  }

  std::mt19937_64 random_{1};
};

// Tokens by (reader, owner).
using Tokens = std::map<std::pair<int, int>, int64_t>;

Tokens TokensOf(const RingTraffic& traffic) {
  Tokens tokens;
  for (const RingShare& share : traffic.shares) {
    EXPECT_TRUE(tokens.emplace(std::pair{share.reader, share.owner}, share.tokens).second)
        << "a share comes twice";
    EXPECT_GT(share.tokens, 0);
  }
  return tokens;
}

// What ranks plan, each for itself: what it sends and receives.
void ExpectPlans(const RingTraffic& traffic, const std::vector<RingRound>& of_rank) {
  Tokens sent, received;
  for (int rank = 0; rank < static_cast<int>(of_rank.size()); ++rank) {
    for (int other = 0; other < static_cast<int>(of_rank.size()); ++other) {
      const int64_t out = CountTokens(of_rank[rank].sends[other]);
      const int64_t in = CountTokens(of_rank[rank].receives[other]);
      if (out > 0) sent[{other, rank}] = out;
      if (in > 0) received[{rank, other}] = in;
    }
  }
  const Tokens tokens = TokensOf(traffic);
  ASSERT_EQ(tokens, sent);
  ASSERT_EQ(tokens, received);
}

TEST_F(RingTrafficTest, IsWhatEachRankPlans) {
  for (int trial = 0; trial < 500; ++trial) {
    const SequenceLayout layout = AnyLayout();
    const std::vector<BlockKeys> blocks = AnyBlocks(layout.num_ranks);
    const int64_t max_tokens = Integer(1, 100);
    const std::vector<RingTraffic> rounds = TrafficOfRing(layout, blocks, max_tokens);
    std::vector<std::vector<RingRound>> plans;
    for (int r = 0; r < layout.num_ranks; ++r) {
      plans.push_back(PlanRing(layout, r, blocks, max_tokens));
      ASSERT_EQ(plans[r].size(), rounds.size());
    }
    for (size_t i = 0; i < rounds.size(); ++i) {
      std::vector<RingRound> of_rank;
      for (const auto& plan : plans) of_rank.push_back(plan[i]);
      ASSERT_EQ(rounds[i].window, of_rank[0].window);
      ExpectPlans(rounds[i], of_rank);
    }
  }
}

TEST_F(RingTrafficTest, IsWhatEachRankPlansForGroups) {
  for (int trial = 0; trial < 500; ++trial) {
    const SequenceLayout layout = AnyLayout();
    std::vector<std::vector<Range>> brought;
    std::vector<std::vector<std::vector<Range>>> brought_to(layout.num_ranks);
    for (int group = 0; group < 3; ++group) {
      const std::vector<BlockKeys> blocks = AnyBlocks(layout.num_ranks);
      const RingTraffic traffic = TrafficOfGroup(layout, blocks, &brought);
      std::vector<RingRound> of_rank;
      for (int r = 0; r < layout.num_ranks; ++r) {
        of_rank.push_back(PlanGroup(layout, r, blocks, &brought_to[r]));
      }
      ExpectPlans(traffic, of_rank);
    }
  }
}

TEST_F(RingTrafficTest, CountsReadsAndPairsOfEveryBlock) {
  for (int trial = 0; trial < 300; ++trial) {
    const SequenceLayout layout = AnyLayout();
    const std::vector<BlockKeys> blocks = AnyBlocks(layout.num_ranks);
    std::map<std::pair<int, int>, std::pair<int64_t, double>> expected, counted;
    for (const BlockKeys& block : blocks) {
      const auto read = [&](int64_t position) {
        auto& [reads, pairs] = expected[{block.rank, layout.owner(position)}];
        ++reads;
        for (int64_t q = block.near.end - block.queries; q < block.near.end; ++q) {
          pairs += q >= position ? 1 : 0;
        }
      };
      for (const int64_t p : block.far) read(p);
      for (int64_t p = block.near.begin; p < block.near.end; ++p) read(p);
    }
    for (const RingTraffic& round : TrafficOfRing(layout, blocks, Integer(1, 100))) {
      for (const RingShare& share : round.shares) {
        auto& [reads, pairs] = counted[{share.reader, share.owner}];
        reads += share.reads;
        pairs += share.pairs;
      }
    }
    ASSERT_EQ(counted, expected);
  }
}

TEST_F(RingTrafficTest, SharesAreInOrderOfSteps) {
  for (int trial = 0; trial < 100; ++trial) {
    const SequenceLayout layout = AnyLayout();
    const int ranks = layout.num_ranks;
    for (const RingTraffic& round : TrafficOfRing(layout, AnyBlocks(ranks), 50)) {
      for (size_t i = 0; i < round.shares.size(); ++i) {
        const RingShare& share = round.shares[i];
        ASSERT_EQ(RingDestination(share.owner, share.step(ranks), ranks), share.reader);
        if (i == 0) continue;
        const RingShare& before = round.shares[i - 1];
        ASSERT_LT(std::pair(before.step(ranks), before.reader),
                  std::pair(share.step(ranks), share.reader));
      }
    }
  }
}

}  // namespace
}  // namespace longspan
