#include "sharding/layer_program.h"

#include <map>
#include <random>
#include <set>
#include <string>
#include <vector>

#include "gtest/gtest.h"
#include "sharding/rank_calls.h"

namespace longspan {
namespace {

// Jobs of any size, and selections that are uniform over the middle.
class LayerProgramTest : public testing::Test {
 protected:
  int64_t Integer(int64_t low, int64_t high) {
    return std::uniform_int_distribution<int64_t>(low, high)(random_);
  }

  JobShape AnyJob() {
    JobShape job;
    const int64_t block = Integer(1, 8);
    job.layer.layout = {block * Integer(1, 4), static_cast<int>(Integer(1, 9))};
    job.layer.sizes = {Integer(0, 6), Integer(1, 30), Integer(0, 4) == 0};
    job.layer.top_k = job.layer.sizes.dense ? 0 : Integer(0, 10);
    job.layer.halo = Integer(0, job.layer.layout.stripe_tokens);
    job.layer.score_row_bytes = job.layer.top_k > 0 ? 7 : 0;
    job.layer.query_row_bytes = 5;
    if (Integer(0, 1) == 0) job.layer.voters = Integer(1, 4);
    job.layer.soft_votes = job.layer.voters > 0 && Integer(0, 2) > 0;
    job.layer.token = {.key_value = 3, .query = 4, .partial = 6};
    job.layer.limits.ring_round_tokens = Integer(1, 100);
    job.layer.deterministic = Integer(0, 2) == 0;
    if (Integer(0, 1) == 0)
      job.layer.moving = Integer(0, 1) == 0 ? Moving::kKeys : Moving::kQueries;
    job.backend = Integer(0, 1) == 0 ? Backend::kCpu : Backend::kGpu;
    job.output_row_bytes = 9;
    if (Integer(0, 2) == 0) job.merge = MergeWay::kHistogram;
    job.histogram = {.histograms = 2, .excess = 16};
    job.model.block_tokens = block;
    job.model.sizes = job.layer.sizes;
    job.model.ranks = job.ranks();
    return job;
  }

  std::vector<int64_t> Select(const JobShape& job, Range middle) {
    std::set<int64_t> chosen;
    const int64_t count = std::min(job.layer.top_k, middle.size());
    while (static_cast<int64_t>(chosen.size()) < count) {
      chosen.insert(Integer(middle.begin, middle.end - 1));
    }
    return {chosen.begin(), chosen.end()};
  }

  std::mt19937_64 random_{1};
};

// Calls that cannot deadlock: the same on all ranks, and each message in the call of both its ends.
void ExpectMatching(const JobShape& job, const LayerProgram& program) {
  std::vector<std::vector<Collective>> calls;
  for (int r = 0; r < job.ranks(); ++r) {
    calls.push_back(CallsOfRank(program, job.ranks(), r));
    ASSERT_EQ(calls[r].size(), calls[0].size());
  }
  for (size_t i = 0; i < calls[0].size(); ++i) {
    std::map<std::pair<int, int>, std::vector<int64_t>> seen;  // by (from, to): of each end
    for (int r = 0; r < job.ranks(); ++r) {
      const Collective& call = calls[r][i];
      ASSERT_EQ(call.kind, calls[0][i].kind);
      ASSERT_EQ(call.name, calls[0][i].name);
      ASSERT_EQ(call.bytes, calls[0][i].bytes);
      for (const Message& message : call.messages) {
        ASSERT_TRUE(message.from == r || message.to == r);
        ASSERT_NE(message.from, message.to);
        ASSERT_GT(message.bytes, 0);
        seen[{message.from, message.to}].push_back(message.bytes);
      }
    }
    for (const auto& [ends, bytes] : seen) {
      ASSERT_EQ(bytes.size(), 2u) << "one message a call, which both ends know";
      ASSERT_EQ(bytes[0], bytes[1]);
    }
  }
}

TEST_F(LayerProgramTest, CallsOfAllRanksMatch) {
  for (int trial = 0; trial < 400; ++trial) {
    const JobShape job = AnyJob();
    const auto select = [&](Range, Range middle) { return Select(job, middle); };
    const int64_t block = job.model.block_tokens;
    const int64_t begin = Integer(0, 30) * block;
    const ChunkShape chunk = {{begin, begin + Integer(1, 40)}, begin + Integer(40, 60)};
    const auto blocks = static_cast<int64_t>(SelectionBlocks(chunk.tokens, block).size());
    ExpectMatching(job, PrefillProgram(job, chunk, Integer(0, blocks), select));
    std::vector<int64_t> positions(Integer(1, 3));
    for (int64_t& position : positions) position = Integer(0, 300);
    ExpectMatching(job, DecodeProgram(job, positions, select));
  }
}

// Bytes that come to `rank` by calls of this name.
int64_t Received(const JobShape& job, const LayerProgram& program, int rank,
                 std::string_view name) {
  int64_t bytes = 0;
  for (const Collective& call : CallsOfRank(program, job.ranks(), rank)) {
    if (call.name != name) continue;
    for (const Message& message : call.messages) {
      if (message.to == rank) bytes += message.bytes;
    }
  }
  return bytes;
}

// A key comes once to each rank that reads it and does not keep it, however many of its blocks do.
TEST_F(LayerProgramTest, KeysComeOnceToTheirReaders) {
  for (int trial = 0; trial < 200; ++trial) {
    JobShape job = AnyJob();
    job.layer.moving = Moving::kKeys;
    std::vector<std::set<int64_t>> read(job.ranks());
    const int64_t block = job.model.block_tokens;
    const int64_t begin = Integer(0, 30) * block;
    const ChunkShape chunk = {{begin, begin + Integer(1, 40)}, begin + 40};
    std::map<int64_t, std::vector<int64_t>> selected;
    const auto select = [&](Range tokens, Range middle) {
      return selected[tokens.begin] = Select(job, middle);
    };
    const std::vector<Range> blocks = SelectionBlocks(chunk.tokens, block);
    const LayerProgram program =
        PrefillProgram(job, chunk, static_cast<int64_t>(blocks.size()), select);
    for (const Range& tokens : blocks) {
      const int rank = job.layer.layout.owner(tokens.begin);
      const BlockKeys keys =
          ReadsOf(tokens, rank, RangesOfBlock(job.layer.sizes, tokens), selected[tokens.begin]);
      read[rank].insert(keys.far.begin(), keys.far.end());
      for (int64_t p = keys.near.begin; p < keys.near.end; ++p) read[rank].insert(p);
    }
    const std::string_view name = job.backend == Backend::kGpu ? "ring.keys" : "ring.step";
    for (int r = 0; r < job.ranks(); ++r) {
      int64_t needed = 0;
      for (const int64_t p : read[r]) needed += job.layer.layout.owner(p) == r ? 0 : 1;
      ASSERT_EQ(Received(job, program, r, name), needed * job.layer.token.key_value);
    }
  }
}

TEST_F(LayerProgramTest, QueriesGoToAllAndPartialsComeBack) {
  JobShape job = AnyJob();
  job.backend = Backend::kCpu;
  job.layer.deterministic = false;
  job.layer.moving = Moving::kQueries;
  job.layer.layout = {4, 3};
  job.model.block_tokens = 4;
  const auto select = [&](Range, Range middle) { return Select(job, middle); };
  // Blocks of 4, 4 and 2 queries on ranks 0, 1 and 2.
  const LayerProgram program = PrefillProgram(job, {{96, 106}, 106}, 3, select);
  EXPECT_EQ(Received(job, program, 0, "ring.queries"), (4 + 2) * job.layer.token.query);
  EXPECT_EQ(Received(job, program, 0, "ring.partials"), 2 * 4 * job.layer.token.partial);
  EXPECT_EQ(Received(job, program, 2, "ring.partials"), 2 * 2 * job.layer.token.partial);
}

// Names and sizes of an unmistakable job, one by one.
TEST_F(LayerProgramTest, ADecodedTokenMergesCandidatesThenPartials) {
  JobShape job;
  job.layer.layout = {4, 2};
  job.layer.sizes = {2, 4, false};
  job.layer.top_k = 3;
  job.layer.token.partial = 100;
  const auto select = [](Range, Range) { return std::vector<int64_t>{5, 6, 8}; };
  const std::vector<Collective> gathers = CallsOfRank(DecodeProgram(job, {50}, select), 2, 1);
  ASSERT_EQ(gathers.size(), 2u);
  EXPECT_EQ(gathers[0].name, "select.candidates");
  EXPECT_EQ(gathers[0].bytes, (std::vector<int64_t>{24, 24}));
  EXPECT_EQ(gathers[1].name, "decode.partials");
  EXPECT_EQ(gathers[1].bytes, (std::vector<int64_t>{100, 100}));

  job.merge = MergeWay::kHistogram;
  job.histogram = {.histograms = 1, .excess = 16};
  const std::vector<Collective> histogram = CallsOfRank(DecodeProgram(job, {50}, select), 2, 1);
  ASSERT_EQ(histogram.size(), 5u);
  EXPECT_EQ(histogram[0].name, "select.ranges");
  EXPECT_EQ(histogram[1].bytes, (std::vector<int64_t>{1024 * 4}));
  EXPECT_EQ(histogram[2].name, "select.counts");
  EXPECT_EQ(histogram[2].bytes, (std::vector<int64_t>{2 * 4}));
  EXPECT_EQ(histogram[3].bytes, (std::vector<int64_t>{(3 + 16) * 8}));
}

// What the voters of two rows agree on before their candidates are gathered.
TEST_F(LayerProgramTest, VotersOnGpusAgreeOnEachQuery) {
  JobShape job;
  job.backend = Backend::kGpu;
  job.layer.layout = {4, 2};
  job.layer.sizes = {2, 4, false};
  job.layer.top_k = 3;
  job.layer.voters = 5;
  job.layer.soft_votes = true;
  job.merge = MergeWay::kAllGather;
  const auto select = [](Range, Range) { return std::vector<int64_t>{5, 6, 8}; };
  const std::vector<Collective> calls = CallsOfRank(DecodeProgram(job, {50, 60}, select), 2, 1);
  ASSERT_EQ(calls.size(), 4u);
  EXPECT_EQ(calls[0].kind, CollectiveKind::kAllReduceMax);
  EXPECT_EQ(calls[0].bytes, (std::vector<int64_t>{5 * 2 * 4}));
  EXPECT_EQ(calls[1].name, "select.sums");
  EXPECT_EQ(calls[1].bytes, (std::vector<int64_t>{5 * 2 * 16}));
  EXPECT_EQ(calls[2].name, "select.candidates");
  job.layer.soft_votes = false;
  const std::vector<Collective> hard = CallsOfRank(DecodeProgram(job, {50, 60}, select), 2, 1);
  ASSERT_EQ(hard.size(), 2u);
  EXPECT_EQ(hard[0].name, "select.candidates");
  // Alone it has nobody to agree with.
  job.layer.soft_votes = true;
  job.layer.layout.num_ranks = job.model.ranks = 1;
  EXPECT_TRUE(CallsOfRank(DecodeProgram(job, {50, 60}, select), 1, 0).empty());
}

TEST_F(LayerProgramTest, GpusMergeByHistogramDigitByDigit) {
  JobShape job;
  job.backend = Backend::kGpu;
  job.layer.layout = {4, 2};
  job.layer.sizes = {2, 4, false};
  job.layer.top_k = 3;
  job.merge = MergeWay::kHistogram;
  const auto select = [](Range, Range) { return std::vector<int64_t>{5, 6, 8}; };
  const LayerProgram program = DecodeProgram(job, {50, 60}, select);
  const std::vector<Collective> calls = CallsOfRank(program, 2, 1);
  ASSERT_EQ(calls.size(), 7u);
  for (int digit = 0; digit < 5; ++digit) {
    EXPECT_EQ(calls[digit].name, "select.histograms");
    const int64_t bytes = 2 * 4 * (digit == 4 ? 4096 + 2 : 8192);
    EXPECT_EQ(calls[digit].bytes, (std::vector<int64_t>{bytes})) << digit;
  }
  EXPECT_EQ(calls[5].name, "select.winners");
  EXPECT_EQ(calls[5].bytes, (std::vector<int64_t>{2 * 3 * 4}));
  EXPECT_EQ(calls[6].name, "attend.partials");
  double merged = 0;  // bytes
  for (const LayerOp& op : program) {
    const auto* compute = std::get_if<Compute>(&op.what);
    if (compute != nullptr && compute->kernel == Kernel::kMerge) merged += compute->work[1].bytes;
  }
  // Six times all candidates, every count once written and once read, and likewise all winners.
  EXPECT_EQ(merged, 2 * (6 * 3 * 8 + 2 * 4 * (4 * 8192 + 4096 + 2) + 2 * 3 * 4));
}

}  // namespace
}  // namespace longspan
