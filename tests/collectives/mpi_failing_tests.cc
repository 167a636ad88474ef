// Tests that fail on the last rank only; expect_failure.sh looks at what mpi_main.cc makes of them.
#include <vector>

#include "gtest/gtest.h"
#include "tests/mpi_main.h"

namespace longspan {
namespace {

bool OnLastRank() { return TestWorld().rank() == TestWorld().size() - 1; }

TEST(FailingTest, Expectation) { EXPECT_FALSE(OnLastRank()); }

TEST(FailingTest, LeavesBeforeACollective) {
  ASSERT_FALSE(OnLastRank());
  EXPECT_EQ(TestWorld().Barrier("the others wait here"), absl::OkStatus());
}

}  // namespace
}  // namespace longspan
