#include "launcher/scale_preflight.h"

#include <filesystem>
#include <fstream>
#include <string>

#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace longspan {
namespace {

using ::testing::ElementsAre;
using ::testing::EndsWith;
using ::testing::HasSubstr;
using ::testing::Pair;

std::string ErrorOf(const absl::Status& status) { return std::string(status.message()); }

// Of the test that runs.
std::string TempFile(const std::string& name, const std::string& text) {
  const char* test = ::testing::UnitTest::GetInstance()->current_test_info()->name();
  const std::string path = absl::StrCat(::testing::TempDir(), "/scale_preflight_", test, "_", name);
  std::ofstream(path) << text;
  return path;
}

TEST(LaunchWordsTest, RefusesANumberOfRanks) {
  for (const char* mpirun :
       {"mpirun -n 2", "mpirun -np 2", "mpirun --np 2", "mpirun --n 2", "mpirun -c 2", "mpirun -n",
        "/opt/bin/mpirun -x A -c 2", "mpirun.openmpi -n2", "nice -n 5 mpiexec -n 2",
        "srun --ntasks=2", "srun -n2", "srun -n 2"}) {
    EXPECT_THAT(ErrorOf(LaunchWords(mpirun).status()), HasSubstr("--mpirun: leave -")) << mpirun;
  }
  EXPECT_EQ(ErrorOf(LaunchWords("  ").status()), "--mpirun names no program");
}

TEST(LaunchWordsTest, TakesTheSameFlagsOfOthers) {
  for (const char* mpirun :
       {"mpirun", "nice -n 5 mpirun", "ssh -n host mpirun", "srun -c 2", "srun --ntasks-per-node=2",
        "mpirun --mca plm_rsh_args -n --oversubscribe", "taskset -c 2 mpirun", "./mine -n 2",
        "mpirunner -n 2"}) {
    EXPECT_TRUE(LaunchWords(mpirun).ok()) << mpirun;
  }
  EXPECT_THAT(*LaunchWords(" mpirun  --bind-to none "), ElementsAre("mpirun", "--bind-to", "none"));
}

TEST(LaunchCommandTest, FindsProgramAndHostfile) {
  const std::string hosts = TempFile("hosts", "a slots=1\n");
  EXPECT_THAT(*LaunchCommand("env mpirun", hosts),
              ElementsAre(EndsWith("/env"), "mpirun", "--hostfile", hosts));
  EXPECT_THAT(ErrorOf(LaunchCommand("no-such-mpirun", "").status()),
              HasSubstr("--mpirun: no-such-mpirun: there is no such program in $PATH; install"));
  EXPECT_FALSE(LaunchCommand("env", hosts + "_absent").ok());
}

// Says of the host elsewhere that it has two slots, and where it puts up to two ranks.
constexpr char kMpirun[] = R"sh(#!/bin/sh
if [ "$1" = --version ]; then echo "mpirun (VENDOR) 4.1.4"; exit; fi
while [ "$1" != -n ]; do shift; done
echo "	elsewhere: flags=0x10 slots=2 max_slots=0 slots_inuse=0 state=UNKNOWN"
[ "$2" -gt 2 ] || printf ' Data for node: elsewhere\tNum slots: 2\tNum procs: %s\n' "$2"
)sh";

std::string FakeMpirun(const std::string& vendor) {
  std::string text = kMpirun;
  text.replace(text.find("VENDOR"), 6, vendor);
  const std::string program = TempFile("mpirun", text);
  std::filesystem::permissions(program, std::filesystem::perms::owner_all);
  return program;
}

TEST(CheckSlotsTest, RefusesMoreRanksThanOpenMpiHasSlots) {
  const std::string mpirun = FakeMpirun("Open MPI");
  EXPECT_THAT(*CheckSlots({mpirun}, {1, 2}), ElementsAre(Pair(1, 0), Pair(2, 0)));
  EXPECT_THAT(ErrorOf(CheckSlots({mpirun}, {1, 2, 3}).status()),
              HasSubstr("--ranks: 3 are more than the 2 slots that mpirun has on elsewhere"));
  EXPECT_THAT(*CheckSlots({FakeMpirun("Another MPI")}, {1, 3}), ElementsAre());
}

}  // namespace
}  // namespace longspan
