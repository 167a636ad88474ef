#include "sharding/step_schedule.h"

#include "gtest/gtest.h"

namespace longspan {
namespace {

TEST(StepScheduleTest, APlanGoesInOneMessageIfItFits) {
  for (const int64_t words : {9, 127}) {
    ASSERT_EQ(BroadcastPlan(words).size(), 1u);
    EXPECT_EQ(BroadcastPlan(words)[0],
              (Collective{CollectiveKind::kBroadcast, "step.plan", {1024}, {}}));
  }
  for (const int64_t words : {128, 5000}) {
    ASSERT_EQ(BroadcastPlan(words).size(), 2u);
    EXPECT_EQ(BroadcastPlan(words)[0], BroadcastPlan(9)[0]);
    EXPECT_EQ(BroadcastPlan(words)[1],
              (Collective{CollectiveKind::kBroadcast, "step.plan.rest", {8 * (words - 127)}, {}}));
  }
}

TEST(StepScheduleTest, LogitsGoToRank0) {
  EXPECT_TRUE(SendLastLogits(0, 100).messages.empty());
  const Collective call = SendLastLogits(3, 100);
  ASSERT_EQ(call.messages.size(), 1u);
  EXPECT_EQ(call.messages[0], (Message{3, 0, 400}));
}

}  // namespace
}  // namespace longspan
