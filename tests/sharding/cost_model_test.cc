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

// Numbers that are easy to compute with: hosts of 4, a byte a second within a host and half of that
// between hosts.
HardwareProfile EasyProfile() {
  HardwareProfile profile;
  profile.bytes_per_s = 10;
  profile.flops_per_s = 100;
  profile.ranks_per_host = 4;
  profile.within_host = {.latency_s = 1000, .bytes_per_s = 1};
  profile.between_hosts = {.latency_s = 1e6, .bytes_per_s = 0.5};
  profile.call_s = 1e9;
  return profile;
}

TEST(CostModelTest, AKernelIsAsSlowAsTheSlowerOfItsBytesAndFlops) {
  HardwareProfile profile = EasyProfile();
  profile.kernels[static_cast<int>(Kernel::kScore)] = {.efficiency = 0.5, .overhead_s = 3};
  EXPECT_EQ(KernelSeconds(profile, 1, Kernel::kScore, {.bytes = 100, .flops = 500}), 3 + 10 / 0.5);
  EXPECT_EQ(KernelSeconds(profile, 1, Kernel::kScore, {.bytes = 10, .flops = 500}), 3 + 5 / 0.5);
  EXPECT_EQ(KernelSeconds(profile, 1, Kernel::kAttend, {.bytes = 10, .flops = 500}), 5);
  EXPECT_EQ(KernelSeconds(profile, 1, Kernel::kScore, {}), 0) << "no call at all";
}

TEST(CostModelTest, RanksTakeTurnsOnTheProcessorsOfAHost) {
  HardwareProfile profile = EasyProfile();
  const Work work = {.bytes = 10};
  EXPECT_EQ(KernelSeconds(profile, 64, Kernel::kAttend, work), 1);
  profile.processors_per_host = 2;
  EXPECT_EQ(KernelSeconds(profile, 1, Kernel::kAttend, work), 1);
  EXPECT_EQ(KernelSeconds(profile, 3, Kernel::kAttend, work), 1.5);
  EXPECT_EQ(KernelSeconds(profile, 64, Kernel::kAttend, work), 2) << "four on each host";
}

TEST(CostModelTest, CollectivesOfOneRankAreFree) {
  const HardwareProfile profile = EasyProfile();
  EXPECT_EQ(LinkSeconds(profile, AllGatherUse(profile, 1, 100)), 0);
  EXPECT_EQ(LinkSeconds(profile, AllReduceUse(profile, 1, 100)), 0);
  EXPECT_EQ(LinkSeconds(profile, BroadcastUse(profile, 1, 100)), 0);
  EXPECT_EQ(LinkSeconds(profile, MessageUse(profile, 3, 3, 100)), 0);
}

TEST(CostModelTest, AnAllGatherReceivesWhatOthersHave) {
  const HardwareProfile profile = EasyProfile();
  // 3 ranks of one host: 2 messages, two thirds of the bytes.
  EXPECT_EQ(LinkSeconds(profile, AllGatherUse(profile, 3, 30)), 1e9 + 2000 + 20);
  // 16 ranks of 10 bytes on 4 hosts: 3 x 10 bytes from the peers on other hosts at half a byte a
  // second, then 3 x 40 from the host's.
  EXPECT_EQ(LinkSeconds(profile, AllGatherUse(profile, 16, 160)),
            1e9 + 2 * 1e6 + 30 / 0.5 + 2 * 1000 + 120);
}

TEST(CostModelTest, AnAllReduceSendsAllOrHalvesIt) {
  const HardwareProfile profile = EasyProfile();
  EXPECT_EQ(LinkSeconds(profile, AllReduceUse(profile, 16, 8)),
            1e9 + 2 * (1e6 + 8 / 0.5) + 2 * (1000 + 8));
  const double bytes = 2 * kHalvingBytes;
  EXPECT_EQ(LinkSeconds(profile, AllReduceUse(profile, 16, bytes)),
            1e9 + 4 * 1e6 + 2 * bytes / 4 * 3 / 4 / 0.5 + 4 * 1000 + 2 * bytes * 3 / 4);
}

TEST(CostModelTest, MessagesAndBroadcastsKnowHosts) {
  const HardwareProfile profile = EasyProfile();
  EXPECT_EQ(LinkSeconds(profile, MessageUse(profile, 0, 3, 7)), 1000 + 7);
  EXPECT_EQ(LinkSeconds(profile, MessageUse(profile, 3, 4, 7)), 1e6 + 14);
  EXPECT_EQ(LinkSeconds(profile, BroadcastUse(profile, 8, 7)), 1e9 + 1e6 + 14 + 2 * (1000 + 7));
}

}  // namespace
}  // namespace longspan
