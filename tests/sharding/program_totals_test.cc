#include "sharding/program_totals.h"

#include <string>
#include <vector>

#include "gtest/gtest.h"
#include "sharding/prediction.h"
#include "sharding/simulator.h"

namespace longspan {
namespace {

constexpr int kRanks = 4;

JobShape SmallJob() {
  JobShape job;
  job.model.layers = 3;
  job.model.hidden = job.model.intermediate = 64;
  job.model.vocab = 100;
  job.model.heads = job.model.kv_heads = 2;
  job.model.head_dim = 16;
  job.model.sizes = job.layer.sizes = {4, 32, false};
  job.model.top_k = job.layer.top_k = 24;
  job.model.score_dim = 8;
  job.model.block_tokens = 16;
  job.model.chunk_tokens = 16 * kRanks;
  job.model.ranks = kRanks;
  job.layer.layout = {16, kRanks};
  job.layer.halo = 1;
  job.layer.score_row_bytes = 16;
  job.layer.query_row_bytes = 16;
  job.layer.token = {.key_value = 128, .query = 128, .partial = 136};
  return job;
}

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
      JobShape job = SmallJob();
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
  const JobShape job = SmallJob();
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
