#include "collectives/mpi_communicator.h"

#include "gtest/gtest.h"
#include "tests/collectives/communicator_checks.h"
#include "tests/mpi_main.h"

namespace longspan {
namespace {

class MpiCommunicatorTest : public testing::TestWithParam<CommunicatorCheck> {};

TEST_P(MpiCommunicatorTest, Check) { EXPECT_EQ(GetParam().run(TestWorld()), absl::OkStatus()); }

INSTANTIATE_TEST_SUITE_P(All, MpiCommunicatorTest, testing::ValuesIn(CommunicatorChecks()),
                         [](const auto& param) { return param.param.name; });

TEST(MpiSessionTest, KnowsItsLauncher) {
  EXPECT_TRUE(LaunchedByMpirun());
  EXPECT_EQ(LaunchedRanks(), TestWorld().size());
}

// Every rank refuses wrong arguments by itself, before it tells the others anything.
TEST(MpiCommunicatorArgumentsTest, RefusedWithoutBreakingAnything) {
  Communicator& world = TestWorld();
  char byte = 0;
  const int beyond = world.size();
  EXPECT_EQ(world.Broadcast("root", &byte, 1, beyond).code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(world.StartExchange("peer", {Transfer{beyond, &byte, 1}}, {}).status().code(),
            absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(world.WaitExchange(ExchangeId{-1}).code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(world.Barrier("afterwards"), absl::OkStatus());
}

}  // namespace
}  // namespace longspan
