#include "launcher/rank_placement.h"

#include <filesystem>
#include <fstream>
#include <optional>
#include <string>

#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace longspan {
namespace {

using ::testing::ElementsAre;

std::optional<RankPlacement> Parse(const std::string& answer, int64_t ranks,
                                   const std::string& here = "node1",
                                   std::optional<int64_t> slots_here = 4) {
  return ParsePlacement(answer, ranks, here, [&] { return slots_here; });
}

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
  const auto placement = Parse(hosts + MapLine("node1", 2, 2) + MapLine("node2", 3, 1), 3);
  ASSERT_TRUE(placement.has_value());
  EXPECT_THAT(placement->hosts, ElementsAre("node1", "node2"));
  EXPECT_EQ(placement->slots, 5);
  EXPECT_EQ(placement->ranks_here, 2);
  EXPECT_FALSE(placement->is_refused);
  EXPECT_TRUE(Parse(hosts, 6)->is_refused);
  // It has another reason to start none, which it tells when it is asked in earnest.
  EXPECT_FALSE(Parse(hosts, 5)->is_refused);
  EXPECT_EQ(Parse(hosts, 5)->ranks_here, std::nullopt);
}

TEST(RankPlacementTest, OversubscribedRanksAreNotRefused) {
  const std::string answer = Allocation(HostLine("node1", "0x11", 2)) + MapLine("node1", 2, 9);
  EXPECT_FALSE(Parse(answer, 9)->is_refused);
  EXPECT_EQ(Parse(answer, 9)->ranks_here, 9);
}

// mpirun takes a host that states no slots to have one, until it has seen it.
TEST(RankPlacementTest, SlotsOfThisMachineAreWhatMpirunGivesIt) {
  const std::string here = Allocation(HostLine("node1", "0x01", 1));
  EXPECT_EQ(Parse(here, 4)->slots, 4);
  EXPECT_FALSE(Parse(here, 4)->is_refused);
  EXPECT_EQ(Parse(here, 4)->ranks_here, 4);
  EXPECT_TRUE(Parse(here, 5)->is_refused);
  // It does not say, or may oversubscribe: nothing is refused.
  EXPECT_FALSE(Parse(here, 5, "node1", std::nullopt)->is_refused);
  EXPECT_EQ(Parse(here, 5, "node1", std::nullopt)->ranks_here, 5);
  EXPECT_FALSE(Parse(here + MapLine("node1", 1, 5), 5)->is_refused);
}

TEST(RankPlacementTest, SlotsElsewhereAreStatedOrUnknown) {
  EXPECT_FALSE(Parse(Allocation(HostLine("node2", "0x00", 1)), 64)->is_refused);
  const std::string both = Allocation(HostLine("node1", "0x11", 2) + HostLine("node2", "0x00", 1));
  EXPECT_EQ(Parse(both, 64)->slots, std::nullopt);
  EXPECT_FALSE(Parse(both, 64)->is_refused);
  // Which ranks go where depends on it too.
  EXPECT_EQ(Parse(both + MapLine("node1", 2, 2), 2)->ranks_here, std::nullopt);
}

TEST(RankPlacementTest, ReadsTheSlotsOfAJobThatStarted) {
  EXPECT_EQ(ParseSlots(Allocation(HostLine("node1", "0x11", 8))), 8);
  EXPECT_EQ(ParseSlots(Allocation(HostLine("node1", "0x01", 1))), std::nullopt);
  EXPECT_EQ(ParseSlots(""), std::nullopt);
}

TEST(RankPlacementTest, KnowsOpenMpiByItsVersion) {
  const auto is_open_mpi = [](const std::string& version) {
    const std::string program = ::testing::TempDir() + "/rank_placement_mpirun";
    std::ofstream(program) << "#!/bin/sh\n[ \"$*\" = --version ] && echo '" << version << "'\n";
    std::filesystem::permissions(program, std::filesystem::perms::owner_all);
    return IsOpenMpi({program, "-x", "PATH"}).value();
  };
  EXPECT_TRUE(is_open_mpi("mpirun (Open MPI) 4.1.4"));
  EXPECT_TRUE(is_open_mpi("mpiexec (OpenRTE) 4.1.4"));
  EXPECT_FALSE(is_open_mpi("slurm 23.02"));
  EXPECT_FALSE(is_open_mpi(""));
  EXPECT_FALSE(IsOpenMpi({"absent"}).value());
}

TEST(RankPlacementTest, KnowsThisMachineWithAndWithoutDomain) {
  const std::string answer =
      Allocation(HostLine("node1.example.org", "0x11", 2) + HostLine("node2", "0x10", 2)) +
      MapLine("node1.example.org", 2, 1) + MapLine("node2", 2, 1);
  EXPECT_EQ(Parse(answer, 2)->ranks_here, 1);
  EXPECT_EQ(Parse(answer, 2, "node3")->ranks_here, 0);
  EXPECT_EQ(Parse(Allocation(HostLine("node2", "0x10", 2)), 2)->ranks_here, 0);
}

TEST(RankPlacementTest, KnowsNothingOfWhatOthersAnswer) {
  EXPECT_FALSE(Parse("", 1).has_value());
  EXPECT_FALSE(Parse("srun: unrecognized option '--mca'\n", 1).has_value());
  EXPECT_FALSE(Parse("\tnode1: flags=0x11 slots=many\n", 1).has_value());
  EXPECT_FALSE(Parse("\tnode1: flags=0xup slots=2 max_slots=0\n", 1).has_value());
  EXPECT_FALSE(Parse(MapLine("node1", 2, 2), 2).has_value());
}

}  // namespace
}  // namespace longspan
