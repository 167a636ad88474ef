#include "sharding/sequence_layout.h"

#include <cstdint>
#include <random>
#include <set>
#include <vector>

#include "gtest/gtest.h"
#include "sharding/attention_ranges.h"

namespace longspan {
namespace {

class SequenceLayoutTest : public testing::Test {
 protected:
  int64_t Integer(int64_t low, int64_t high) {
    return std::uniform_int_distribution<int64_t>(low, high)(random_);
  }
  SequenceLayout AnyLayout() { return {Integer(1, 20), static_cast<int>(Integer(1, 9))}; }
  Range AnyRange(int64_t limit) {
    const int64_t begin = Integer(0, limit);
    return {begin, Integer(begin, limit)};
  }

  std::mt19937_64 random_{1};
};

// The layout, one position at a time: stripes are dealt to the ranks like cards.
struct Dealt {
  int rank = 0;
  int64_t page = 0;
};
std::vector<Dealt> Deal(const SequenceLayout& layout, int64_t tokens) {
  std::vector<Dealt> dealt;
  std::vector<int64_t> pages(layout.num_ranks, 0);
  int rank = 0;
  while (static_cast<int64_t>(dealt.size()) < tokens) {
    dealt.insert(dealt.end(), layout.stripe_tokens, {rank, pages[rank]});
    ++pages[rank];
    rank = (rank + 1) % layout.num_ranks;
  }
  dealt.resize(tokens);
  return dealt;
}

TEST_F(SequenceLayoutTest, OwnersAndPagesAreDealt) {
  for (int trial = 0; trial < 200; ++trial) {
    const SequenceLayout layout = AnyLayout();
    const std::vector<Dealt> dealt = Deal(layout, 500);
    for (int64_t p = 0; p < 500; ++p) {
      ASSERT_EQ(layout.owner(p), dealt[p].rank);
      ASSERT_EQ(layout.page(p), dealt[p].page);
      const Range stripe = layout.StripeOfPage(dealt[p].rank, dealt[p].page);
      ASSERT_TRUE(stripe.contains(p));
      ASSERT_EQ(stripe.size(), layout.stripe_tokens);
      ASSERT_EQ(layout.stripe(p), stripe.begin / layout.stripe_tokens);
    }
  }
}

TEST_F(SequenceLayoutTest, NumPagesCountsTheStripesThatHoldTokens) {
  for (int trial = 0; trial < 500; ++trial) {
    const SequenceLayout layout = AnyLayout();
    const int64_t tokens = Integer(0, 400);
    const std::vector<Dealt> dealt = Deal(layout, tokens);
    for (int rank = 0; rank < layout.num_ranks; ++rank) {
      std::set<int64_t> pages;
      for (const Dealt& d : dealt) {
        if (d.rank == rank) pages.insert(d.page);
      }
      ASSERT_EQ(layout.NumPages(rank, tokens), static_cast<int64_t>(pages.size()));
      ASSERT_LE(layout.NumPages(rank, tokens), layout.NumPages(0, tokens));
    }
  }
}

TEST_F(SequenceLayoutTest, OwnedRunsAreTheOwnedPositions) {
  for (int trial = 0; trial < 1000; ++trial) {
    const SequenceLayout layout = AnyLayout();
    const Range range = AnyRange(300);
    for (int rank = 0; rank < layout.num_ranks; ++rank) {
      std::vector<int64_t> expected, actual;
      for (int64_t p = range.begin; p < range.end; ++p) {
        if (layout.owner(p) == rank) expected.push_back(p);
      }
      for (const Range& run : layout.OwnedRuns(rank, range)) {
        ASSERT_FALSE(run.empty());
        ASSERT_EQ(layout.stripe(run.begin), layout.stripe(run.end - 1));
        for (int64_t p = run.begin; p < run.end; ++p) actual.push_back(p);
      }
      ASSERT_EQ(actual, expected);
      ASSERT_EQ(layout.CountOwned(rank, range), static_cast<int64_t>(expected.size()));
    }
  }
}

TEST_F(SequenceLayoutTest, EmptyAndInvertedRangesOwnNothing) {
  const SequenceLayout layout = {4, 3};
  for (const Range range : {Range{0, 0}, Range{7, 7}, Range{9, 2}}) {
    EXPECT_EQ(range.size(), 0);
    for (int rank = 0; rank < 3; ++rank) {
      EXPECT_TRUE(layout.OwnedRuns(rank, range).empty());
      EXPECT_EQ(layout.CountOwned(rank, range), 0);
    }
  }
}

TEST_F(SequenceLayoutTest, PositionsBeyondTwoToThe31) {
  const SequenceLayout layout = {512, 7};
  const int64_t round = 512 * 7;
  const int64_t start = (int64_t{1} << 33) / round * round;
  for (const int64_t offset : {int64_t{0}, int64_t{511}, int64_t{512}, round - 1}) {
    EXPECT_EQ(layout.owner(start + offset), layout.owner(offset));
    EXPECT_EQ(layout.page(start + offset), start / round);
    EXPECT_TRUE(layout.StripeOfPage(layout.owner(offset), start / round).contains(start + offset));
  }
  EXPECT_EQ(layout.NumPages(0, start + 1), start / round + 1);
  EXPECT_EQ(layout.CountOwned(3, {0, start + round}), start / 7 + 512);
  EXPECT_EQ(layout.OwnedRuns(6, {start, start + round}),
            (std::vector<Range>{{start + 6 * 512, start + round}}));
}

TEST_F(SequenceLayoutTest, SelectionBlocksAreAlignedAtZero) {
  for (int trial = 0; trial < 500; ++trial) {
    const int64_t size = Integer(1, 40);
    const Range range = AnyRange(200);
    int64_t next = range.begin;
    for (const Range& block : SelectionBlocks(range, size)) {
      ASSERT_EQ(block.begin, next);
      ASSERT_FALSE(block.empty());
      ASSERT_EQ(block.begin / size, (block.end - 1) / size);
      ASSERT_TRUE(block.end == range.end || block.end % size == 0);
      next = block.end;
    }
    ASSERT_EQ(next, range.empty() ? range.begin : range.end);
  }
}

// Every position before the block's end is in exactly one part, the one that the definition names.
TEST_F(SequenceLayoutTest, RangesOfABlockFollowTheDefinition) {
  for (int trial = 0; trial < 1000; ++trial) {
    const AttentionSizes sizes = {Integer(0, 30), Integer(0, 60), trial % 10 == 0};
    const int64_t begin = Integer(0, 150);
    const Range block = {begin, begin + Integer(1, 40)};
    const AttentionRanges ranges = RangesOfBlock(sizes, block);
    const bool selects = !sizes.dense && block.begin - sizes.local_tokens > sizes.initial_tokens;
    for (int64_t p = 0; p < block.end + 5; ++p) {
      const bool near = p < block.end && (!selects || p >= block.begin - sizes.local_tokens);
      const bool initial = selects && p < sizes.initial_tokens;
      ASSERT_EQ(ranges.near.contains(p), near);
      ASSERT_EQ(ranges.initial.contains(p), initial);
      ASSERT_EQ(ranges.middle.contains(p), p < block.end && !near && !initial);
    }
    ASSERT_EQ(ranges.selects(), selects);
  }
}

TEST_F(SequenceLayoutTest, OwnersOfARangeShareIt) {
  for (const int ranks : {1, 2, 3, 7}) {
    const SequenceLayout layout = {4, ranks};
    for (int64_t begin = 0; begin < 20; ++begin) {
      for (int64_t end = begin; end < 70; end += 3) {
        std::vector<int64_t> tokens(ranks, 0);
        ForEachOwner(layout, {begin, end}, [&](int rank, int64_t owned) {
          ASSERT_EQ(tokens[rank], 0) << "named twice";
          ASSERT_GT(owned, 0);
          tokens[rank] = owned;
        });
        for (int r = 0; r < ranks; ++r) {
          ASSERT_EQ(tokens[r], layout.CountOwned(r, {begin, end}));
        }
      }
    }
  }
}

}  // namespace
}  // namespace longspan
