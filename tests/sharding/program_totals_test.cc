#include "sharding/program_totals.h"

#include <string>
#include <vector>

#include "gtest/gtest.h"
#include "sharding/prediction.h"
#include "sharding/simulator.h"
#include "tests/sharding/small_job.h"

namespace longspan {
namespace {

constexpr int kRanks = 4;

// Bytes take a second each, FLOPs and messages no time: seconds are bytes of work.
HardwareProfile BytesTakeTime() {
  HardwareProfile profile;
  profile.flops_per_s = 1e30;
  profile.within_host = profile.between_hosts = {.latency_s = 0, .bytes_per_s = 1e30};
  profile.ranks_per_host = 2;
  return profile;
}

double BytesOf(const ProgramTotals& totals, Phase phase) {
  double bytes = 0;
  for (const auto& [key, sum] : totals.kernels) {
    if (key.first == phase) bytes += sum.work.bytes;
  }
  return bytes;
}

// What the simulator spends on the rank itself is what the totals say, in all forms of attention.
TEST(ProgramTotalsTest, AgreeWithTheSimulator) {
  for (const Backend backend : {Backend::kCpu, Backend::kGpu}) {
    for (const Moving moving : {Moving::kKeys, Moving::kQueries}) {
      JobShape job = SmallJob(kRanks);
      job.backend = backend;
      job.layer.moving = moving;
      const HardwareProfile profile = BytesTakeTime();
      for (const LayerProgram& program :
           {PrefillProgram(job, {{640, 704}, 704}, 4, DrawUniformly(job, 1)),
            DecodeProgram(job, {{700, 640}}, DrawUniformly(job, 1))}) {
        ProgramTotals totals;
        totals.Add(program, profile, kRanks, 1);
        Simulator simulator(profile, kRanks);
        simulator.Run(program);
        for (const Phase phase : {Phase::kLinear, Phase::kScore, Phase::kAttend}) {
          EXPECT_GT(BytesOf(totals, phase), 0);
          EXPECT_NEAR(BytesOf(totals, phase), simulator.MeanSeconds(phase),
                      1e-6 * simulator.MeanSeconds(phase));
        }
      }
    }
  }
}

TEST(ProgramTotalsTest, CountsCallsButNotExchanges) {
  const JobShape job = SmallJob(kRanks);
  const HardwareProfile profile = BytesTakeTime();
  const LayerProgram program = PrefillProgram(job, {{640, 704}, 704}, 4, DrawUniformly(job, 1));
  ProgramTotals once, thrice;
  once.Add(program, profile, kRanks, 1);
  thrice.Add(program, profile, kRanks, 3);
  ASSERT_TRUE(once.calls.contains("select.queries"));
  EXPECT_FALSE(once.calls.contains("store.halos"));
  for (const auto& [name, use] : once.calls) {
    EXPECT_GE(use.calls, 1) << name;
    EXPECT_EQ(use.steps_within, use.calls) << name;  // two ranks a host, two hosts
    EXPECT_EQ(thrice.calls.at(name).bytes_between, 3 * use.bytes_between) << name;
  }
  for (const auto& [key, sum] : once.kernels) {
    EXPECT_NEAR(thrice.kernels.at(key).calls, 3 * sum.calls, 1e-9);
  }
}

}  // namespace
}  // namespace longspan
