#include "runtime/prefix_cache.h"

#include <random>
#include <set>
#include <utility>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace longspan {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

using Tokens = std::vector<int32_t>;

// Stripes of 8 tokens on two ranks, blocks of 4.
PrefixCache::Shape ShapeWith(int64_t halo) { return {{8, 2}, halo, 4}; }

// 0, 1, 2, ... up to `same`, then other tokens.
Tokens Prompt(int64_t same, int64_t count, int32_t other = 1000) {
  Tokens tokens;
  for (int64_t i = 0; i < count; ++i) {
    tokens.push_back(static_cast<int32_t>(i < same ? i : other + i));
  }
  return tokens;
}

std::vector<int64_t> NodesOf(const std::vector<PrefixCache::Published>& published) {
  std::vector<int64_t> nodes;
  for (const auto& [stripe, node] : published) nodes.push_back(node);
  return nodes;
}

std::vector<int64_t> NodesOf(const std::vector<PrefixCache::Evicted>& evicted) {
  std::vector<int64_t> nodes;
  for (const auto& [node, rank] : evicted) nodes.push_back(node);
  return nodes;
}

void ExpectHit(const PrefixCache& cache, const Tokens& prompt, int64_t tokens, size_t shared,
               size_t copied) {
  const PrefixCache::Hit hit = cache.Find(prompt);
  EXPECT_EQ(hit.tokens, tokens);
  EXPECT_EQ(hit.shared.size(), shared);
  EXPECT_EQ(hit.copied.size(), copied);
}

TEST(PrefixCacheTest, SharesWholeStripesAndCopiesWhatIsWrittenTo) {
  PrefixCache cache(ShapeWith(0));
  const std::vector<PrefixCache::Published> published = cache.Publish(Prompt(100, 30), {});
  ASSERT_EQ(published.size(), 4);  // 28 tokens: three stripes and a half
  EXPECT_EQ(published[3].stripe, 3);
  EXPECT_EQ(cache.num_pages(0), 2);
  EXPECT_EQ(cache.num_pages(1), 2);
  ExpectHit(cache, Prompt(100, 30), 28, 3, 1);
  ExpectHit(cache, Prompt(100, 28), 24, 3, 0);  // something must be left
  ExpectHit(cache, Prompt(100, 25), 24, 3, 0);
  ExpectHit(cache, Prompt(100, 24), 20, 2, 1);
  ExpectHit(cache, Prompt(18, 50), 16, 2, 0);
  ExpectHit(cache, Prompt(17, 50), 16, 2, 0);
  ExpectHit(cache, Prompt(16, 50), 16, 2, 0);
  ExpectHit(cache, Prompt(15, 50), 12, 1, 1);
  ExpectHit(cache, Prompt(4, 50), 4, 0, 1);
  ExpectHit(cache, Prompt(3, 50), 0, 0, 0);
  ExpectHit(cache, Prompt(100, 1), 0, 0, 0);
  ExpectHit(cache, Prompt(100, 4), 0, 0, 0);
}

TEST(PrefixCacheTest, HalosMustBeTheSameToo) {
  PrefixCache cache(ShapeWith(3));
  ASSERT_EQ(cache.Publish(Prompt(100, 28), {}).size(), 4);
  ExpectHit(cache, Prompt(100, 30), 28, 3, 1);
  ExpectHit(cache, Prompt(24, 50), 24, 2, 1);
  ExpectHit(cache, Prompt(20, 50), 20, 2, 1);
  ExpectHit(cache, Prompt(16, 50), 16, 1, 1);
  // A stripe more with the same tokens but another halo is a page of its own.
  const Tokens other = Prompt(17, 28);
  const PrefixCache::Hit hit = cache.Find(other);
  EXPECT_EQ(hit.tokens, 16);
  ASSERT_EQ(hit.shared.size(), 1);
  const std::vector<PrefixCache::Published> published = cache.Publish(other, hit.shared);
  ASSERT_EQ(published.size(), 3);
  EXPECT_EQ(published[0].stripe, 1);
  EXPECT_EQ(cache.Find(Prompt(17, 30)).shared[1], published[0].node);
  EXPECT_NE(cache.Find(Prompt(100, 30)).shared[1], published[0].node);
}

TEST(PrefixCacheTest, KeepsOnePageOfEqualOnes) {
  PrefixCache cache(ShapeWith(2));
  const std::vector<int64_t> nodes = NodesOf(cache.Publish(Prompt(100, 20), {}));
  EXPECT_THAT(cache.Publish(Prompt(100, 20), {}), IsEmpty());
  EXPECT_THAT(cache.Publish(Prompt(100, 19), {}), IsEmpty());
  EXPECT_THAT(cache.Publish(Prompt(100, 3), {}), IsEmpty());
  // The last page goes further now, and so does the halo of none before.
  const std::vector<PrefixCache::Published> longer = cache.Publish(Prompt(100, 24), {});
  ASSERT_EQ(longer.size(), 1);
  EXPECT_EQ(longer[0].stripe, 2);
  EXPECT_THAT(cache.Find(Prompt(100, 25)).copied, ElementsAre(longer[0].node));
  EXPECT_THAT(cache.Find(Prompt(100, 25)).shared, ElementsAre(nodes[0], nodes[1]));
}

TEST(PrefixCacheTest, EvictsWhatWasUsedLeastRecently) {
  PrefixCache cache(ShapeWith(0));
  const std::vector<int64_t> first = NodesOf(cache.Publish(Prompt(100, 16), {}));
  const std::vector<int64_t> second = NodesOf(cache.Publish(Prompt(0, 16), {}));
  std::vector<PrefixCache::Evicted> evicted;
  EXPECT_TRUE(cache.Evict({0, -3}, {}, &evicted));
  EXPECT_THAT(evicted, IsEmpty());
  EXPECT_FALSE(cache.Evict({1, 0}, {}, &evicted)) << "all are in use";
  cache.Release(second);
  cache.Release(first);
  ASSERT_TRUE(cache.Evict({0, 1}, {}, &evicted));
  EXPECT_THAT(NodesOf(evicted), ElementsAre(second[1]));
  EXPECT_EQ(evicted[0].rank, 1);
  ExpectHit(cache, Prompt(0, 16), 8, 1, 0);
  cache.Use({second[0]});
  cache.Release({second[0]});
  ASSERT_TRUE(cache.Evict({1, 0}, {}, &evicted));
  EXPECT_THAT(NodesOf(evicted), ElementsAre(first[1], first[0]));
  EXPECT_FALSE(cache.Evict({2, 0}, {}, &evicted));
  EXPECT_EQ(cache.num_pages(0), 1) << "nothing goes where it does not suffice";
}

TEST(PrefixCacheTest, EvictsWhatIsToBeCopiedLast) {
  PrefixCache cache(ShapeWith(0));
  const std::vector<int64_t> copied = NodesOf(cache.Publish(Prompt(100, 8), {}));
  const std::vector<int64_t> other = NodesOf(cache.Publish(Prompt(0, 8), {}));
  cache.Release(copied);
  cache.Release(other);
  std::vector<PrefixCache::Evicted> evicted;
  ASSERT_TRUE(cache.Evict({1, 0}, copied, &evicted));
  EXPECT_THAT(NodesOf(evicted), ElementsAre(other[0]));
  ASSERT_TRUE(cache.Evict({1, 0}, copied, &evicted));
  EXPECT_THAT(NodesOf(evicted), ElementsAre(copied[0]));
}

// Whether so many pages of each rank could be freed.
bool CanEvict(PrefixCache cache, std::vector<int64_t> pages) {
  std::vector<PrefixCache::Evicted> evicted;
  return cache.Evict(std::move(pages), {}, &evicted);
}

TEST(PrefixCacheTest, HoldsWhatCannotBeEvicted) {
  std::mt19937_64 random(3);
  const auto integer = [&](int64_t low, int64_t high) {
    return std::uniform_int_distribution<int64_t>(low, high)(random);
  };
  PrefixCache cache(ShapeWith(2));
  std::vector<std::vector<int64_t>> in_use;  // by sequences
  int64_t unused_but_held = 0;
  for (int step = 0; step < 2000; ++step) {
    if (integer(0, 1) == 0) {
      const Tokens prompt = Prompt(integer(0, 60), integer(1, 60), static_cast<int32_t>(step));
      // Not all of what it shares, so that a page in use may stand on one that is not.
      std::vector<int64_t> nodes = cache.Find(prompt).shared;
      cache.Use(nodes);
      for (const int64_t node : NodesOf(cache.Publish(prompt, nodes))) nodes.push_back(node);
      std::vector<int64_t> kept;
      for (const int64_t node : nodes) {
        if (integer(0, 2) > 0)
          kept.push_back(node);
        else
          cache.Release({node});
      }
      in_use.push_back(kept);
    } else if (!in_use.empty()) {
      std::swap(in_use[integer(0, static_cast<int64_t>(in_use.size()) - 1)], in_use.back());
      cache.Release(in_use.back());
      in_use.pop_back();
    }
    std::set<int64_t> used[2];
    for (const auto& nodes : in_use) {
      for (const int64_t node : nodes) used[cache.rank(node)].insert(node);
    }
    for (const int rank : {0, 1}) {
      const int64_t free = cache.num_pages(rank) - cache.num_held_pages(rank);
      std::vector<int64_t> pages(2, 0);
      pages[rank] = free;
      ASSERT_TRUE(CanEvict(cache, pages)) << free;
      pages[rank] = free + 1;
      ASSERT_FALSE(CanEvict(cache, pages)) << free;
      unused_but_held += cache.num_held_pages(rank) - static_cast<int64_t>(used[rank].size());
    }
    std::vector<PrefixCache::Evicted> evicted;
    cache.Evict({integer(0, 2), integer(0, 2)}, {}, &evicted);
  }
  EXPECT_GT(unused_but_held, 100);
}

}  // namespace
}  // namespace longspan
