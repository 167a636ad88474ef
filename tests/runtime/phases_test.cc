#include "runtime/phases.h"

#include <cmath>
#include <numeric>
#include <vector>

#include "collectives/thread_communicator.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "kernels/base/status_macros.h"
#include "runtime/clock.h"
#include "runtime/phase_clock.h"
#include "runtime/rank_stats.h"

namespace longspan {
namespace {

using ::testing::DoubleNear;

void Work(double seconds) {
  for (const double end = MonotonicSeconds() + seconds; MonotonicSeconds() < end;) continue;
}

double Of(const StagePhases& stage, Phase phase) { return stage.seconds[static_cast<int>(phase)]; }

TEST(PhasesTest, CallsCountByTheBeginningsOfTheirNames) {
  EXPECT_EQ(PhaseOfCall("select.queries"), Phase::kQueryGather);
  EXPECT_EQ(PhaseOfCall("select.thresholds"), Phase::kMaxima);
  EXPECT_EQ(PhaseOfCall("select.sums"), Phase::kMaxima);
  EXPECT_EQ(PhaseOfCall("select.candidates"), Phase::kCandidateMerge);
  EXPECT_EQ(PhaseOfCall("select.anything.new"), Phase::kCandidateMerge);
  EXPECT_EQ(PhaseOfCall("ring.step"), Phase::kRingWait);
  EXPECT_EQ(PhaseOfCall("ring.partials"), Phase::kPartialMerge);
  EXPECT_EQ(PhaseOfCall("decode.partials"), Phase::kPartialMerge);
  EXPECT_EQ(PhaseOfCall("store.halos"), Phase::kOtherExchange);
}

TEST(PhasesTest, RankStatsFollowFromTheSameNames) {
  const CommunicatorStats stats = {{"select.queries", {1, 10, 1.0}},
                                   {"select.candidates", {1, 10, 2.0}},
                                   {"ring.step", {1, 10, 4.0}},
                                   {"decode.partials", {1, 10, 8.0}},
                                   {"prefill.logits", {1, 10, 16.0}}};
  EXPECT_EQ(RankStatsOf(stats).merge_s, 3.0);
  EXPECT_EQ(RankStatsOf(stats).ring_s, 12.0);
}

// A step of two ranks: rank 1 computes for longer, so rank 0 waits for it.
absl::Status Step(Communicator& communicator, PhaseClock* clock, StagePhases* stage) {
  clock->Begin();
  {
    const PhaseSpan attend(clock, Phase::kAttend);
    {
      const PhaseSpan score(clock, Phase::kScore);
      Work(communicator.rank() == 0 ? 0.002 : 0.022);
      float maximum = 0;
      LONGSPAN_RETURN_IF_ERROR(communicator.AllReduceMax("select.maxima", &maximum, 1));
    }
    Work(0.004);
  }
  clock->End(stage);
  return absl::OkStatus();
}

TEST(PhasesTest, WaitsAreNotCountedAsTheWorkAroundThem) {
  std::vector<RankPhases> gathered;
  const auto run = [&](Communicator& communicator) -> absl::Status {
    PhaseClock clock(communicator);
    RankPhases mine;
    LONGSPAN_RETURN_IF_ERROR(communicator.Barrier("before the clock runs"));
    for (int i = 0; i < 2; ++i) {
      LONGSPAN_RETURN_IF_ERROR(Step(communicator, &clock, &mine.prefill));
    }
    std::vector<RankPhases> all;
    LONGSPAN_RETURN_IF_ERROR(GatherPhases(&communicator, mine, &all));
    if (communicator.rank() == 0) gathered = all;
    return absl::OkStatus();
  };
  ASSERT_TRUE(RunThreadRanks(2, run, {}).ok());
  ASSERT_EQ(gathered.size(), 2);
  for (const RankPhases& rank : gathered) {
    const PhaseSeconds& seconds = rank.prefill.seconds;
    EXPECT_EQ(rank.prefill.steps, 2);
    // Whatever the machine did meanwhile, the parts make up the whole.
    EXPECT_THAT(std::accumulate(seconds.begin(), seconds.end(), 0.0),
                DoubleNear(rank.prefill.wall_s, 1e-9));
    EXPECT_GE(Of(rank.prefill, Phase::kAttend), 0.008);
    EXPECT_EQ(Of(rank.prefill, Phase::kLinear), 0);
    ASSERT_EQ(rank.prefill.calls.size(), 1);
    EXPECT_EQ(rank.prefill.calls.at("select.maxima").calls, 2);
    EXPECT_EQ(rank.prefill.calls.at("select.maxima").seconds_waited,
              Of(rank.prefill, Phase::kMaxima));
    EXPECT_EQ(rank.decode.steps, 0);
  }
  EXPECT_GE(Of(gathered[1].prefill, Phase::kScore), 0.044);
}

TEST(PhasesTest, WhatWasNotMeasuredStaysSo) {
  RankPhases mine;
  mine.decode.steps = 3;
  mine.decode.seconds.fill(kNotMeasured);
  std::vector<RankPhases> all;
  ASSERT_TRUE(
      RunThreadRanks(1, [&](Communicator& c) { return GatherPhases(&c, mine, &all); }, {}).ok());
  EXPECT_TRUE(std::isnan(Of(all[0].decode, Phase::kAttend)));
  EXPECT_TRUE(std::isnan(ComputeSeconds(all[0].decode)));
  EXPECT_EQ(ComputeSeconds(all[0].prefill), 0);
}

TEST(PhasesTest, WithoutAClockASpanIsNothing) { const PhaseSpan span(nullptr, Phase::kAttend); }

}  // namespace
}  // namespace longspan
