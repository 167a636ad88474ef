#include "launcher/rank_placement.h"

#include <optional>
#include <string>

#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace longspan {
namespace {

using ::testing::ElementsAre;

const LocalMachine kHere = {"node1", 4};

// As Open MPI 4.1.4 writes them.
std::string Allocation(const std::string& lines) {
  return absl::StrCat("\n======================   ALLOCATED NODES   ======================\n",
                      lines, "=================================================================\n");
}
std::string HostLine(const std::string& name, const std::string& flags, int slots) {
  return absl::StrCat("\t", name, ": flags=", flags, " slots=", slots,
                      " max_slots=0 slots_inuse=0 state=UP\n");
}
std::string MapLine(const std::string& name, int slots, int ranks) {
  return absl::StrCat(" Data for node: ", name, "\tNum slots: ", slots,
                      "\tMax slots: 0\tNum procs: ", ranks, "\n",
                      " \tProcess OMPI jobid: [1,1] App: 0 Process rank: 0 Bound: N/A\n\n");
}

TEST(RankPlacementTest, CountsTheSlotsThatHostsState) {
  const std::string hosts = Allocation(HostLine("node1", "0x11", 2) + HostLine("node2", "0x10", 3));
  const auto placement =
      ParsePlacement(hosts + MapLine("node1", 2, 2) + MapLine("node2", 3, 1), 3, kHere);
  ASSERT_TRUE(placement.has_value());
  EXPECT_THAT(placement->hosts, ElementsAre("node1", "node2"));
  EXPECT_EQ(placement->slots, 5);
  EXPECT_EQ(placement->ranks_here, 2);
  EXPECT_FALSE(placement->is_refused);
  EXPECT_TRUE(ParsePlacement(hosts, 6, kHere)->is_refused);
  // It has another reason to start none, which it tells when it is asked in earnest.
  EXPECT_FALSE(ParsePlacement(hosts, 5, kHere)->is_refused);
  EXPECT_EQ(ParsePlacement(hosts, 5, kHere)->ranks_here, std::nullopt);
}

TEST(RankPlacementTest, OversubscribedRanksAreNotRefused) {
  const std::string answer = Allocation(HostLine("node1", "0x11", 2)) + MapLine("node1", 2, 9);
  EXPECT_FALSE(ParsePlacement(answer, 9, kHere)->is_refused);
  EXPECT_EQ(ParsePlacement(answer, 9, kHere)->ranks_here, 9);
}

// mpirun takes a host that states no slots to have one, until it has seen it.
TEST(RankPlacementTest, CoresAreCountedOnThisMachineAlone) {
  const std::string here = Allocation(HostLine("node1", "0x01", 1));
  EXPECT_EQ(ParsePlacement(here, 4, kHere)->slots, 4);
  EXPECT_FALSE(ParsePlacement(here, 4, kHere)->is_refused);
  EXPECT_EQ(ParsePlacement(here, 4, kHere)->ranks_here, 4);
  EXPECT_TRUE(ParsePlacement(here, 5, kHere)->is_refused);
  const std::string elsewhere =
      Allocation(HostLine("node1", "0x11", 2) + HostLine("node2", "0x00", 1));
  EXPECT_EQ(ParsePlacement(elsewhere, 64, kHere)->slots, std::nullopt);
  EXPECT_FALSE(ParsePlacement(elsewhere, 64, kHere)->is_refused);
  // Which ranks go where depends on it too.
  EXPECT_EQ(ParsePlacement(elsewhere + MapLine("node1", 2, 2), 2, kHere)->ranks_here, std::nullopt);
}

TEST(RankPlacementTest, KnowsThisMachineWithAndWithoutDomain) {
  const std::string answer =
      Allocation(HostLine("node1.example.org", "0x11", 2) + HostLine("node2", "0x10", 2)) +
      MapLine("node1.example.org", 2, 1) + MapLine("node2", 2, 1);
  EXPECT_EQ(ParsePlacement(answer, 2, kHere)->ranks_here, 1);
  EXPECT_EQ(ParsePlacement(answer, 2, {"node3", 4})->ranks_here, 0);
  EXPECT_EQ(ParsePlacement(Allocation(HostLine("node2", "0x10", 2)), 2, kHere)->ranks_here, 0);
}

TEST(RankPlacementTest, KnowsNothingOfWhatOthersAnswer) {
  EXPECT_FALSE(ParsePlacement("", 1, kHere).has_value());
  EXPECT_FALSE(ParsePlacement("srun: unrecognized option '--mca'\n", 1, kHere).has_value());
  EXPECT_FALSE(ParsePlacement("\tnode1: flags=0x11 slots=many\n", 1, kHere).has_value());
  EXPECT_FALSE(ParsePlacement("\tnode1: flags=0xup slots=2 max_slots=0\n", 1, kHere).has_value());
  EXPECT_FALSE(ParsePlacement(MapLine("node1", 2, 2), 2, kHere).has_value());
}

}  // namespace
}  // namespace longspan
