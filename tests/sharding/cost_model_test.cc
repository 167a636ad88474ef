#include "sharding/cost_model.h"

#include <algorithm>
#include <random>
#include <vector>

#include "gtest/gtest.h"

namespace longspan {
namespace {

constexpr TokenBytes kBytes = {.key_value = 10, .query = 20, .partial = 21};

int64_t Keys(const SequenceLayout& layout, const std::vector<BlockKeys>& blocks) {
  return BytesOnBusiestRank(Moving::kKeys, layout, blocks, kBytes);
}
int64_t Queries(const SequenceLayout& layout, const std::vector<BlockKeys>& blocks) {
  return BytesOnBusiestRank(Moving::kQueries, layout, blocks, kBytes);
}

TEST(CostModelTest, OneRankMovesNothing) {
  const BlockKeys block = {.queries = 8, .far = {0, 5}, .near = {10, 30}};
  EXPECT_EQ(Keys({4, 1}, {block}), 0);
  EXPECT_EQ(Queries({4, 1}, {block}), 0);
  EXPECT_EQ(CheaperToMove({4, 1}, {block}, kBytes), Moving::kKeys);
}

TEST(CostModelTest, KeysOfOneReaderComeFromTheirOwners) {
  // Stripes of 4 on 2 ranks: rank 0 owns [0, 4) and [8, 12), rank 1 [4, 8).
  const BlockKeys block = {.rank = 0, .queries = 2, .far = {1, 5}, .near = {6, 10}};
  EXPECT_EQ(Keys({4, 2}, {block}), 3 * kBytes.key_value);  // 5, 6, 7
}

TEST(CostModelTest, ATokenThatTwoBlocksOfARankReadMovesOnce) {
  const BlockKeys first = {.rank = 0, .queries = 2, .near = {4, 8}};
  const BlockKeys second = {.rank = 0, .queries = 2, .far = {5}, .near = {6, 8}};
  EXPECT_EQ(Keys({4, 2}, {first, second}), 4 * kBytes.key_value);
}

TEST(CostModelTest, TheBusiestRankSendsToAllReaders) {
  // Both others read rank 1's four tokens.
  const BlockKeys at0 = {.rank = 0, .queries = 1, .near = {4, 8}};
  const BlockKeys at2 = {.rank = 2, .queries = 1, .near = {4, 8}};
  EXPECT_EQ(Keys({4, 3}, {at0, at2}), 2 * 4 * kBytes.key_value);
}

TEST(CostModelTest, QueriesGoToAllAndPartialsComeBack) {
  // The owner of 5 queries sends them to 3 others, and gets as many partials.
  const BlockKeys block = {.rank = 1, .queries = 5, .near = {0, 1000}};
  EXPECT_EQ(Queries({4, 4}, {block}), 3 * 5 * kBytes.partial);
}

TEST(CostModelTest, ARankSendsItsQueriesAndTheOthersPartials) {
  const BlockKeys at0 = {.rank = 0, .queries = 5, .near = {0, 1000}};
  const BlockKeys at1 = {.rank = 1, .queries = 5, .near = {0, 1000}};
  EXPECT_EQ(Queries({4, 2}, {at0, at1}), 5 * (kBytes.query + kBytes.partial));
}

TEST(CostModelTest, FewQueriesMoveToManyKeysAndManyStay) {
  BlockKeys block = {.rank = 0, .queries = 1, .near = {0, 4096}};
  EXPECT_EQ(CheaperToMove({256, 4}, {block}, kBytes), Moving::kQueries);
  block.queries = 4096;
  EXPECT_EQ(CheaperToMove({256, 4}, {block}, kBytes), Moving::kKeys);
}

// The same sums from the messages that the schedule plans.
TEST(CostModelTest, KeysAreWhatTheScheduleMoves) {
  std::mt19937_64 random(1);
  const auto integer = [&](int64_t low, int64_t high) {
    return std::uniform_int_distribution<int64_t>(low, high)(random);
  };
  for (int trial = 0; trial < 300; ++trial) {
    const SequenceLayout layout = {integer(1, 16), static_cast<int>(integer(1, 8))};
    std::vector<BlockKeys> blocks(integer(0, 5));
    for (BlockKeys& block : blocks) {
      block.rank = static_cast<int>(integer(0, layout.num_ranks - 1));
      const int64_t lo = integer(0, 200);
      for (int64_t p = 0; p < lo; p += integer(1, 9)) block.far.push_back(p);
      block.near = {lo, lo + integer(0, 100)};
    }
    int64_t busiest = 0;
    for (int rank = 0; rank < layout.num_ranks; ++rank) {
      int64_t sent = 0, received = 0;
      for (const RingRound& round : PlanRing(layout, rank, blocks, 50)) {
        for (int other = 0; other < layout.num_ranks; ++other) {
          if (other == rank) continue;
          sent += CountTokens(round.sends[other]);
          received += CountTokens(round.receives[other]);
        }
      }
      busiest = std::max({busiest, sent, received});
    }
    ASSERT_EQ(Keys(layout, blocks), busiest * kBytes.key_value);
  }
}

}  // namespace
}  // namespace longspan
