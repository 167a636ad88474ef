#include "sharding/ring_schedule.h"

#include <algorithm>
#include <limits>
#include <map>
#include <numeric>
#include <random>
#include <set>
#include <vector>

#include "gtest/gtest.h"

namespace longspan {
namespace {

struct Job {
  SequenceLayout layout;
  std::vector<BlockKeys> blocks;
  int64_t max_tokens = 0;
};

class RingScheduleTest : public testing::Test {
 protected:
  int64_t Integer(int64_t low, int64_t high) {
    return std::uniform_int_distribution<int64_t>(low, high)(random_);
  }

  Job AnyJob() {
    Job job;
    job.layout = {Integer(1, 16), static_cast<int>(Integer(1, 8))};
    job.max_tokens = Integer(1, 100);
    const int64_t num_blocks = Integer(0, 6);
    for (int64_t b = 0; b < num_blocks; ++b) job.blocks.push_back(AnyBlock(job.layout.num_ranks));
    return job;
  }

  // Far tokens sparse, in runs, or none; dense blocks have only a near range, from 0.
  BlockKeys AnyBlock(int num_ranks) {
    BlockKeys block;
    block.rank = static_cast<int>(Integer(0, num_ranks - 1));
    const bool dense = Integer(0, 3) == 0;
    const int64_t lo = dense ? 0 : Integer(0, 200);
    block.near = {lo, lo + Integer(0, 120)};
    const int64_t step = Integer(1, 12);
    for (int64_t p = 0; p < lo; p += Integer(1, step)) block.far.push_back(p);
    return block;
  }

  std::mt19937_64 random_{1};
};

std::vector<int64_t> Positions(const std::vector<Range>& runs) {
  std::vector<int64_t> positions;
  for (const Range& run : runs) {
    for (int64_t p = run.begin; p < run.end; ++p) positions.push_back(p);
  }
  return positions;
}

// Plans of all ranks. [rank][round]
std::vector<std::vector<RingRound>> PlanAll(const Job& job) {
  std::vector<std::vector<RingRound>> plans;
  for (int rank = 0; rank < job.layout.num_ranks; ++rank) {
    plans.push_back(PlanRing(job.layout, rank, job.blocks, job.max_tokens));
  }
  return plans;
}

// What each rank's blocks read. [rank]
std::vector<std::set<int64_t>> ReadBy(const Job& job) {
  std::vector<std::set<int64_t>> read(job.layout.num_ranks);
  for (const BlockKeys& block : job.blocks) {
    read[block.rank].insert(block.far.begin(), block.far.end());
    for (int64_t p = block.near.begin; p < block.near.end; ++p) read[block.rank].insert(p);
  }
  return read;
}

// Sizes of the windows of a ring in which every rank reads `tokens` tokens.
std::vector<int64_t> WindowSizes(int ranks, int64_t tokens, int64_t max_tokens, int64_t min_steps) {
  const std::vector<std::vector<Range>> readers(ranks, {{0, tokens}});
  std::vector<int64_t> sizes;
  for (const Range& window : RingWindows(readers, max_tokens, min_steps)) {
    sizes.push_back(window.size());
  }
  return sizes;
}

TEST(RingWindowsTest, FewRanksHaveMoreRounds) {
  using Sizes = std::vector<int64_t>;
  EXPECT_EQ(WindowSizes(2, 8192, 1 << 20, 8), Sizes(4, 2048));
  EXPECT_EQ(WindowSizes(3, 6144, 1 << 20, 8), Sizes(3, 2048));
  EXPECT_EQ(WindowSizes(8, 8192, 1 << 20, 8), Sizes{8192});
  EXPECT_EQ(WindowSizes(9, 8192, 1 << 20, 8), Sizes{8192});
  EXPECT_EQ(WindowSizes(1, 8192, 1 << 20, 8), Sizes{8192}) << "nothing moves";
  EXPECT_EQ(WindowSizes(2, 8192, 1 << 20, 1), Sizes{8192});
  EXPECT_EQ(WindowSizes(2, 1500, 1 << 20, 8), (Sizes{kMinRoundTokens, 1500 - kMinRoundTokens}));
  EXPECT_EQ(WindowSizes(2, 250, 100, 8), (Sizes{100, 100, 50}));
  const int64_t all = std::numeric_limits<int64_t>::max();
  EXPECT_EQ(WindowSizes(2, 100000, all, 1), Sizes{100000}) << "queries meet all keys at once";
}

TEST_F(RingScheduleTest, EachRankReceivesWhatItReadsOnceAndNothingElse) {
  for (int trial = 0; trial < 500; ++trial) {
    const Job job = AnyJob();
    const auto plans = PlanAll(job);
    const auto read = ReadBy(job);
    for (int rank = 0; rank < job.layout.num_ranks; ++rank) {
      std::vector<int64_t> received;
      for (const RingRound& round : plans[rank]) {
        ASSERT_EQ(static_cast<int>(round.receives.size()), job.layout.num_ranks);
        for (int source = 0; source < job.layout.num_ranks; ++source) {
          for (const int64_t p : Positions(round.receives[source])) {
            ASSERT_EQ(job.layout.owner(p), source);
            ASSERT_TRUE(round.window.contains(p));
            received.push_back(p);
          }
        }
      }
      std::sort(received.begin(), received.end());
      ASSERT_EQ(received, std::vector<int64_t>(read[rank].begin(), read[rank].end()));
    }
  }
}

TEST_F(RingScheduleTest, WhatOneSendsTheOtherReceives) {
  for (int trial = 0; trial < 500; ++trial) {
    const Job job = AnyJob();
    const auto plans = PlanAll(job);
    const int ranks = job.layout.num_ranks;
    for (int r = 0; r < ranks; ++r) {
      ASSERT_EQ(plans[r].size(), plans[0].size());
      for (size_t i = 0; i < plans[r].size(); ++i) {
        ASSERT_EQ(plans[r][i].window, plans[0][i].window);
        ASSERT_EQ(static_cast<int>(plans[r][i].sends.size()), ranks);
        for (int d = 0; d < ranks; ++d) {
          ASSERT_EQ(plans[r][i].sends[d], plans[d][i].receives[r]);
        }
      }
    }
  }
}

TEST_F(RingScheduleTest, MessagesAreAscendingAndDisjoint) {
  for (int trial = 0; trial < 200; ++trial) {
    const Job job = AnyJob();
    for (const auto& plan : PlanAll(job)) {
      for (const RingRound& round : plan) {
        for (const std::vector<Range>& runs : round.sends) {
          int64_t last = -1;
          for (const Range& run : runs) {
            ASSERT_FALSE(run.empty());
            ASSERT_GT(run.begin, last);
            last = run.end - 1;
          }
          ASSERT_EQ(CountTokens(runs), static_cast<int64_t>(Positions(runs).size()));
        }
      }
    }
  }
}

TEST_F(RingScheduleTest, WindowsFollowEachOtherAndAreBounded) {
  for (int trial = 0; trial < 500; ++trial) {
    const Job job = AnyJob();
    const auto plans = PlanAll(job);
    std::set<int64_t> all;
    for (const auto& read : ReadBy(job)) all.insert(read.begin(), read.end());
    int64_t last = 0;
    size_t moved = 0;
    for (size_t i = 0; i < plans[0].size(); ++i) {
      const Range window = plans[0][i].window;
      ASSERT_FALSE(window.empty());
      ASSERT_GE(window.begin, last);
      last = window.end;
      std::set<int64_t> different;
      for (const auto& plan : plans) {
        for (const auto& runs : plan[i].sends) {
          const std::vector<int64_t> positions = Positions(runs);
          different.insert(positions.begin(), positions.end());
        }
      }
      ASSERT_LE(static_cast<int64_t>(different.size()), job.max_tokens);
      moved += different.size();
    }
    ASSERT_EQ(moved, all.size());
    // As few rounds as the bound allows.
    const auto tokens = static_cast<int64_t>(all.size());
    ASSERT_EQ(static_cast<int64_t>(plans[0].size()),
              (tokens + job.max_tokens - 1) / job.max_tokens);
  }
}

// Groups in turn bring together what one round brings, and each group all that it reads.
TEST_F(RingScheduleTest, GroupsBringEachTokenOnce) {
  for (int trial = 0; trial < 500; ++trial) {
    const Job job = AnyJob();
    const int ranks = job.layout.num_ranks;
    std::vector<std::vector<std::vector<Range>>> brought(ranks);  // as each rank sees it
    std::vector<std::set<int64_t>> has(ranks);
    for (size_t first = 0; first < job.blocks.size();) {
      const size_t end = std::min(job.blocks.size(), first + Integer(1, 3));
      Job group = job;
      group.blocks = {job.blocks.begin() + first, job.blocks.begin() + end};
      first = end;
      std::vector<RingRound> rounds;
      for (int r = 0; r < ranks; ++r) {
        rounds.push_back(PlanGroup(job.layout, r, group.blocks, &brought[r]));
        ASSERT_EQ(brought[r], brought[0]);
      }
      const auto read = ReadBy(group);
      for (int r = 0; r < ranks; ++r) {
        for (int source = 0; source < ranks; ++source) {
          ASSERT_EQ(rounds[r].receives[source], rounds[source].sends[r]);
          for (const int64_t p : Positions(rounds[r].receives[source])) {
            ASSERT_EQ(job.layout.owner(p), source);
            ASSERT_TRUE(read[r].contains(p)) << "nobody reads " << p;
            ASSERT_TRUE(has[r].insert(p).second) << p << " comes twice";
          }
        }
        for (const int64_t p : read[r]) ASSERT_TRUE(has[r].contains(p)) << p << " is missing";
      }
    }
    ASSERT_EQ(has, ReadBy(job));
  }
}

TEST_F(RingScheduleTest, NothingToReadTakesNoRounds) {
  const SequenceLayout layout = {4, 3};
  EXPECT_TRUE(PlanRing(layout, 1, {}, 10).empty());
  EXPECT_TRUE(PlanRing(layout, 1, {BlockKeys{.near = {5, 5}}}, 10).empty());
}

TEST_F(RingScheduleTest, EveryStepPairsEveryRank) {
  for (int ranks = 1; ranks <= 8; ++ranks) {
    for (int rank = 0; rank < ranks; ++rank) {
      EXPECT_EQ(RingDestination(rank, 0, ranks), rank);
      std::set<int> destinations;
      for (int step = 0; step < ranks; ++step) {
        const int destination = RingDestination(rank, step, ranks);
        EXPECT_EQ(RingSource(destination, step, ranks), rank);
        destinations.insert(destination);
      }
      EXPECT_EQ(static_cast<int>(destinations.size()), ranks);
    }
  }
}

}  // namespace
}  // namespace longspan
