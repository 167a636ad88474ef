#include "sharding/simulator.h"

#include <utility>
#include <vector>

#include "gtest/gtest.h"

namespace longspan {
namespace {

// A byte a second everywhere, latencies of 1000 s between hosts of two ranks, of 100 s within.
HardwareProfile EasyProfile() {
  HardwareProfile profile;
  profile.ranks_per_host = 2;
  profile.within_host = {.latency_s = 100, .bytes_per_s = 1};
  profile.between_hosts = {.latency_s = 1000, .bytes_per_s = 1};
  return profile;
}

Compute WorkOf(std::vector<double> seconds) {
  Compute compute = {Kernel::kLinear, {}};
  for (const double s : seconds) compute.work.push_back({s, 0});
  return compute;
}

Collective Exchange(std::vector<Message> messages) {
  return {CollectiveKind::kExchange, "test", {}, std::move(messages)};
}

TEST(SimulatorTest, RanksDoNotWaitInWork) {
  Simulator simulator(EasyProfile(), 2);
  simulator.Run({Phase::kLinear, WorkOf({10, 30})});
  simulator.Run({Phase::kScore, WorkOf({20, 1})});
  EXPECT_EQ(simulator.seconds(), 31);
  EXPECT_EQ(simulator.MostSeconds(Phase::kLinear), 30);
  EXPECT_EQ(simulator.MeanSeconds(Phase::kLinear), 20);
  EXPECT_EQ(simulator.mean_imbalance(), 0);
}

TEST(SimulatorTest, AGatherBeginsWhenTheLastArrives) {
  Simulator simulator(EasyProfile(), 2);
  simulator.Run({Phase::kLinear, WorkOf({10, 30})});
  simulator.Run({Phase::kQueryGather, Collective{CollectiveKind::kAllGather, "test", {4, 6}, {}}});
  // One message of half of all bytes.
  EXPECT_EQ(simulator.seconds(), 30 + 100 + 5);
  EXPECT_EQ(simulator.MostSeconds(Phase::kQueryGather), 125);
  EXPECT_EQ(simulator.mean_imbalance(), 10);
  EXPECT_EQ(simulator.calls().at("test").calls, 1);
  EXPECT_EQ(simulator.calls().at("test").bytes, 5);
}

TEST(SimulatorTest, AMessageWaitsForBothEnds) {
  Simulator simulator(EasyProfile(), 3);
  simulator.Run({Phase::kLinear, WorkOf({10, 30, 0})});
  simulator.Run({Phase::kOtherExchange, Exchange({{0, 1, 7}})});
  EXPECT_EQ(simulator.seconds(), 30 + 100 + 7);
  EXPECT_EQ(simulator.MostSeconds(Phase::kOtherExchange), 127);
  EXPECT_EQ(simulator.MeanSeconds(Phase::kOtherExchange), (127 + 107 + 0) / 3.0) << "not rank 2";
}

TEST(SimulatorTest, APortSendsOneMessageAfterTheOther) {
  Simulator simulator(EasyProfile(), 4);
  // To another host: the second begins when the bytes of the first are out, latencies overlap.
  simulator.Run({Phase::kOtherExchange, Exchange({{0, 2, 7}, {0, 3, 5}})});
  EXPECT_EQ(simulator.seconds(), 7 + 5 + 1000);
  Simulator receives(EasyProfile(), 4);
  receives.Run({Phase::kOtherExchange, Exchange({{1, 0, 7}, {2, 0, 5}})});
  EXPECT_EQ(receives.seconds(), 7 + 5 + 1000);
  Simulator both(EasyProfile(), 4);
  both.Run({Phase::kOtherExchange, Exchange({{1, 0, 7}, {0, 1, 7}})});
  EXPECT_EQ(both.seconds(), 107) << "a port sends and receives at once";
}

TEST(SimulatorTest, CallsCostTime) {
  HardwareProfile profile = EasyProfile();
  profile.call_s = 3;
  Simulator simulator(profile, 2);
  simulator.Run({Phase::kOtherExchange, Exchange({{0, 1, 7}})});
  simulator.Run({Phase::kMaxima, Collective{CollectiveKind::kAllReduceMax, "max", {8}, {}}});
  EXPECT_EQ(simulator.seconds(), 3 + 107 + 3 + 108);
}

// Attention costs a second a key read.
constexpr AttentionCost kSecondARead = {.read = {1, 0}, .pair = {}};

RingShare Share(int reader, int owner, int64_t tokens) {
  return {.reader = reader, .owner = owner, .tokens = tokens, .reads = tokens};
}

TEST(SimulatorTest, ARingAttendsWhileTheNextStepComes) {
  RingOfKeys ring = {{}, /*token_bytes=*/2, /*in_order=*/false, kSecondARead};
  // Rank 0 reads 200 keys of its own and 30 of rank 1's.
  ring.rounds.push_back({{0, 100}, {Share(0, 0, 200), Share(0, 1, 30)}});
  Simulator simulator(EasyProfile(), 2);
  simulator.Run({Phase::kRingWait, ring});
  EXPECT_EQ(simulator.seconds(), 230) << "60 bytes and 100 s of latency hide behind 200 s of work";
  EXPECT_EQ(simulator.MostSeconds(Phase::kRingWait), 160) << "of rank 1, which only sends";
  EXPECT_EQ(simulator.mean_exchange(), 80);
  ring.in_order = true;
  Simulator in_order(EasyProfile(), 2);
  in_order.Run({Phase::kRingWait, ring});
  EXPECT_EQ(in_order.seconds(), 160 + 230);
}

TEST(SimulatorTest, ARoundBeginsBeforeTheLastStepOfTheOneBeforeIsAttendedTo) {
  RingOfKeys ring = {{}, /*token_bytes=*/2, /*in_order=*/false, kSecondARead};
  ring.rounds.push_back({{0, 100}, {Share(0, 0, 200), Share(0, 1, 30)}});
  ring.rounds.push_back({{100, 200}, {Share(0, 0, 10), Share(0, 1, 20)}});
  Simulator simulator(EasyProfile(), 2);
  simulator.Run({Phase::kRingWait, ring});
  // Rank 0 has waited for the first message at 200 and starts the second, which is there at 340.
  EXPECT_EQ(simulator.seconds(), 200 + 140 + 20);
  EXPECT_EQ(simulator.calls().at("ring.step").calls, 2);
  ring.in_order = true;
  Simulator in_order(EasyProfile(), 2);
  in_order.Run({Phase::kRingWait, ring});
  EXPECT_EQ(in_order.seconds(), 160 + 230 + 30) << "the second is there before it is needed";
}

TEST(SimulatorTest, ALaterStepOfARingWaitsForItsOwner) {
  HardwareProfile profile = EasyProfile();
  profile.ranks_per_host = 3;
  RingOfKeys ring = {{}, 1, false, kSecondARead};
  // Step 1: rank 1 reads 10 of rank 0. Step 2: rank 1 reads 5 of rank 2, which has 400 s to do
  // first.
  ring.rounds.push_back({{0, 100}, {Share(2, 2, 400), Share(1, 0, 10), Share(1, 2, 5)}});
  Simulator simulator(profile, 3);
  simulator.Run({Phase::kRingWait, ring});
  // Rank 2 starts step 2 only when it has attended to its own keys.
  EXPECT_EQ(simulator.seconds(), 400 + 105 + 5);
  EXPECT_EQ(simulator.calls().at("ring.step").calls, 2);
  EXPECT_EQ(simulator.calls().at("ring.step").bytes, 5);
}

TEST(SimulatorTest, EveryRankMakesEveryCallOfARing) {
  HardwareProfile profile = EasyProfile();
  profile.ranks_per_host = 9;
  profile.call_s = 1;
  RingOfKeys ring = {{}, 1, false, kSecondARead};
  ring.rounds.push_back({{0, 100}, {Share(4, 2, 10)}});  // step 2 of 8
  Simulator simulator(profile, 9);
  simulator.Run({Phase::kRingWait, ring});
  EXPECT_EQ(simulator.seconds(), 2 + 110 + 6 + 10);
  EXPECT_EQ(simulator.MeanSeconds(Phase::kRingWait), (2 * 118 + 7 * 8) / 9.0);
}

TEST(SimulatorTest, QueriesGoRoundAndPartialsComeBack) {
  HardwareProfile profile = EasyProfile();
  profile.ranks_per_host = 3;
  RingOfQueries ring = {
      .rows = {1, 0, 0}, .token = {.query = 10, .partial = 20}, .cost = kSecondARead};
  // Rank 0's query meets 1 key of its own, 50 of rank 1's (steps 2 of keys) and 300 of rank 2's.
  ring.reads = {{0, 100}, {Share(0, 0, 1), Share(0, 2, 300), Share(0, 1, 50)}};
  Simulator simulator(profile, 3);
  simulator.Run({Phase::kRingWait, ring});
  // The query is on rank 1 at 110, and goes to rank 2, when rank 0 has waited for that, at 110; it
  // is there at 220, and rank 2 is done at 520.
  EXPECT_EQ(simulator.seconds(), 520 + 120);
  EXPECT_EQ(simulator.MostSeconds(Phase::kAttend), 300);
  EXPECT_EQ(simulator.calls().at("ring.partials").bytes, 2 * 20 / 3.0);
}

TEST(SimulatorTest, GroupsArriveWhileThoseBeforeAreAttendedTo) {
  GroupsOfKeys groups;
  groups.groups.push_back({Exchange({{1, 0, 10}}), {{500, 0}, {}}});
  groups.groups.push_back({Exchange({{1, 0, 20}}), {{7, 0}, {}}});
  Simulator simulator(EasyProfile(), 2);
  simulator.Run({Phase::kRingWait, groups});
  EXPECT_EQ(simulator.seconds(), 110 + 500 + 7);
  EXPECT_EQ(simulator.MostSeconds(Phase::kAttend), 507);
  // All groups are planned before the first is sent.
  groups.listed_keys = 5;
  HardwareProfile profile = EasyProfile();
  profile.plan_s = 100;
  profile.plan_key_s = 3;
  Simulator plans(profile, 2);
  plans.Run({Phase::kRingWait, groups});
  EXPECT_EQ(plans.seconds(), 115 + 110 + 500 + 7);
}

}  // namespace
}  // namespace longspan
