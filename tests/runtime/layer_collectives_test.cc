#include "runtime/layer_collectives.h"

#include <cstdint>
#include <vector>

#include "collectives/thread_communicator.h"
#include "gtest/gtest.h"

namespace longspan {
namespace {

TEST(LayerCollectivesTest, SumsOfWholeNumbersCarryOverDigits) {
  constexpr int kRanks = 5;
  const std::vector<int64_t> of_rank = {
      0, 1, 0xffff, int64_t{1} << 32, 0xffffffffffff, (int64_t{1} << 62) / kRanks};
  LayerShape shape;
  shape.voters = 2;
  const absl::Status ran = RunThreadRanks(kRanks, [&](Communicator& communicator) {
    std::vector<int64_t> sums = of_rank;
    sums[0] = communicator.rank();
    const absl::Status status = AllReduceSum(&communicator, ReduceVoterSums(shape, 3), &sums);
    EXPECT_EQ(sums[0], 10);
    for (size_t i = 1; i < sums.size(); ++i) EXPECT_EQ(sums[i], kRanks * of_rank[i]) << i;
    return status;
  });
  EXPECT_TRUE(ran.ok()) << ran;
}

}  // namespace
}  // namespace longspan
