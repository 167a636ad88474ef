#include "sharding/layer_schedule.h"

#include <algorithm>
#include <random>
#include <set>
#include <utility>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace longspan {
namespace {

using ::testing::ElementsAre;

class LayerScheduleTest : public testing::Test {
 protected:
  int64_t Integer(int64_t low, int64_t high) {
    return std::uniform_int_distribution<int64_t>(low, high)(random_);
  }
  std::mt19937_64 random_{1};
};

TEST_F(LayerScheduleTest, QueriesAreThoseOfTheBlocksThatSelect) {
  LayerShape shape;
  shape.layout = {4, 3};
  shape.query_row_bytes = 10;
  const Collective gather = GatherQueries(shape, {{0, 4, {}}, {2, 4, {}}, {0, 3, {}}});
  EXPECT_EQ(gather.kind, CollectiveKind::kAllGather);
  EXPECT_THAT(gather.bytes, ElementsAre(70, 0, 40));
  EXPECT_EQ(gather.TotalBytes(), 110);
}

TEST_F(LayerScheduleTest, CandidatesAndPartialsAreAlikeOnAllRanks) {
  LayerShape shape;
  shape.layout = {4, 3};
  shape.top_k = 5;
  shape.token.partial = 11;
  EXPECT_THAT(GatherCandidates(shape, 2).bytes, ElementsAre(80, 80, 80));
  EXPECT_THAT(GatherPartials(shape, 2).bytes, ElementsAre(22, 22, 22));
}

// Tiles of a block within its limit where a power of two can be, and groups within theirs.
TEST_F(LayerScheduleTest, TileMaximaKeepWithinLimits) {
  for (int trial = 0; trial < 300; ++trial) {
    LayerShape shape;
    shape.layout = {Integer(1, 64), static_cast<int>(Integer(1, 8))};
    shape.panel_lanes = 8;
    shape.min_tile_keys = 3;
    shape.limits.tile_maxima_bytes = Integer(1, 20000);
    shape.limits.tile_group_bytes = Integer(1, 40000);
    std::vector<SelectingBlock> blocks(Integer(1, 9));
    for (SelectingBlock& block : blocks) {
      block.queries = Integer(1, 20);
      block.middle.begin = Integer(0, 50);
      block.middle.end = block.middle.begin + Integer(1, 5000);
    }
    size_t next = 0;
    for (const MaximaGroup& group : GroupMaxima(shape, blocks)) {
      ASSERT_FALSE(group.tile_keys.empty());
      int64_t lanes = 0;
      for (const int64_t tile_keys : group.tile_keys) {
        ASSERT_LT(next, blocks.size());
        lanes += (blocks[next].queries + 7) / 8 * 8;
        ASSERT_GE(tile_keys, shape.min_tile_keys);
        ++next;
      }
      EXPECT_EQ(group.lanes, lanes);
      if (group.tile_keys.size() > 1) {
        EXPECT_LE(group.tile_bytes, shape.limits.tile_group_bytes);
      }
      EXPECT_EQ(ReduceMaxima(group).bytes[0], lanes * 4);
      EXPECT_EQ(ReduceThresholds(group).bytes[0], static_cast<int64_t>(group.tile_keys.size()) * 4);
      // What each rank really has.
      const size_t first = next - group.tile_keys.size();
      for (int r = 0; r < shape.layout.num_ranks; ++r) {
        int64_t bytes = 0;
        for (size_t b = 0; b < group.tile_keys.size(); ++b) {
          for (const Range& run : shape.layout.OwnedRuns(r, blocks[first + b].middle)) {
            bytes += (run.size() + group.tile_keys[b] - 1) / group.tile_keys[b] *
                     ((blocks[first + b].queries + 7) / 8 * 8) * 4;
          }
        }
        ASSERT_LE(bytes, group.tile_bytes);
      }
    }
    EXPECT_EQ(next, blocks.size());
  }
}

// Every stripe comes to have each halo token once, from its owner, however chunks cut the prompt.
TEST_F(LayerScheduleTest, HalosMoveEachTokenOnceToEachNeighbour) {
  for (int trial = 0; trial < 300; ++trial) {
    const SequenceLayout layout = {Integer(1, 20), static_cast<int>(Integer(1, 5))};
    const int64_t halo = Integer(1, layout.stripe_tokens);
    const int64_t prompt = Integer(1, 200);
    const int64_t capacity = prompt + Integer(0, 30);
    const int64_t cached = Integer(0, 1) * Integer(0, prompt - 1);
    std::set<std::pair<int64_t, int64_t>> kept;  // (stripe, position)
    for (int64_t begin = cached; begin < prompt;) {
      const Range chunk = {begin, std::min(prompt, begin + Integer(1, 50))};
      const bool behind_cached = begin == cached && begin > 0;
      for (const HaloMove& move : HaloMoves(layout, halo, chunk, capacity, behind_cached)) {
        for (int64_t p = move.positions.begin; p < move.positions.end; ++p) {
          ASSERT_EQ(layout.stripe(p), move.from);
          ASSERT_EQ(std::abs(move.to - move.from), 1);
          ASSERT_TRUE(kept.emplace(move.to, p).second) << p << " comes twice";
        }
      }
      begin = chunk.end;
    }
    for (int64_t p = cached; p < prompt; ++p) {
      const int64_t s = layout.stripe(p);
      const int64_t in_stripe = p - s * layout.stripe_tokens;
      const bool to_front = in_stripe < halo && s > 0;
      const bool to_back =
          in_stripe >= layout.stripe_tokens - halo && s < layout.stripe(capacity - 1);
      ASSERT_EQ(kept.contains({s - 1, p}), to_front) << p;
      ASSERT_EQ(kept.contains({s + 1, p}), to_back) << p;
    }
  }
}

TEST_F(LayerScheduleTest, HalosOfOnePairOfRanksAreOneMessage) {
  LayerShape shape;
  shape.layout = {4, 2};
  shape.score_row_bytes = 10;
  // Stripes 0 and 2 are rank 0's: it sends two tokens to stripe 1 and one to stripe 3.
  const Collective exchange =
      ExchangeHalos(shape, {{0, 1, {2, 4}}, {1, 0, {4, 5}}, {2, 3, {11, 12}}, {2, 4, {11, 12}}});
  EXPECT_THAT(exchange.messages, ElementsAre(Message{0, 1, 30}, Message{1, 0, 10}));
}

TEST_F(LayerScheduleTest, GroupsHaveSomeOfEachRankAndAllOfAll) {
  for (int trial = 0; trial < 300; ++trial) {
    const int ranks = static_cast<int>(Integer(1, 6));
    std::vector<int> owners(Integer(0, 30));
    for (int& owner : owners) owner = static_cast<int>(Integer(0, ranks - 1));
    const int64_t max_groups = Integer(1, 5);
    const auto groups = RingGroups(owners, ranks, max_groups);
    ASSERT_LE(static_cast<int64_t>(groups.size()), max_groups);
    std::set<size_t> all;
    std::vector<int64_t> of_rank(ranks, 0);
    for (const int owner : owners) ++of_rank[owner];
    const int64_t most = *std::max_element(of_rank.begin(), of_rank.end());
    for (const std::vector<size_t>& group : groups) {
      std::vector<int64_t> in_group(ranks, 0);
      for (const size_t b : group) {
        ASSERT_TRUE(all.insert(b).second);
        ++in_group[owners[b]];
      }
      for (const int64_t count : in_group) {
        ASSERT_LE(count, (most + max_groups - 1) / max_groups);
      }
    }
    ASSERT_EQ(all.size(), owners.size());
  }
}

TEST_F(LayerScheduleTest, DeterministicRanksMoveKeys) {
  LayerShape shape;
  shape.layout = {256, 4};
  shape.token = {.key_value = 10, .query = 20, .partial = 21};
  const std::vector<BlockKeys> blocks = {{.rank = 0, .queries = 1, .far = {}, .near = {0, 4096}}};
  EXPECT_EQ(ChooseMoving(shape, blocks), Moving::kQueries);
  shape.moving = Moving::kKeys;
  EXPECT_EQ(ChooseMoving(shape, blocks), Moving::kKeys);
  shape.moving = Moving::kQueries;
  shape.deterministic = true;
  EXPECT_EQ(ChooseMoving(shape, blocks), Moving::kKeys);
}

}  // namespace
}  // namespace longspan
