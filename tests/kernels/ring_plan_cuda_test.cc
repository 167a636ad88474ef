#include <algorithm>
#include <vector>

#include "gtest/gtest.h"
#include "kernels/cuda/ring_plan.h"
#include "sharding/ring_schedule.h"
#include "tests/kernels/cuda_testing.h"
#include "tests/kernels/kernel_testing.h"

namespace longspan::cuda {
namespace {

void ExpectOk(const absl::Status& status) { EXPECT_TRUE(status.ok()) << status; }

// What the blocks of all ranks read, with a row of selections for each.
struct Reads {
  SequenceLayout layout;
  int num_groups = 1;
  int64_t top_k = 0;
  std::vector<RingBlock> blocks;
  std::vector<Candidate> selected;  // [blocks, top_k]
  int64_t positions = 0;

  void Add(int reader, int group, Range initial, const std::vector<int64_t>& selection,
           Range near) {
    const int64_t row = std::ssize(blocks);
    blocks.push_back({{initial, near, row}, std::ssize(selection), reader, group});
    selected.resize(std::max<int64_t>(1, (row + 1) * top_k), ~Candidate{0});
    for (size_t i = 0; i < selection.size(); ++i) {
      selected[row * top_k + i] = PackCandidate(1.0f, selection[i]);
    }
    positions = std::max({positions, initial.end, near.end});
    if (!selection.empty()) positions = std::max(positions, selection.back() + 1);
  }

  std::vector<BlockKeys> Group(int group) const {
    std::vector<BlockKeys> keys;
    for (size_t b = 0; b < blocks.size(); ++b) {
      if (blocks[b].group != group) continue;
      BlockKeys& block = keys.emplace_back();
      block.rank = blocks[b].reader;
      const Range initial = blocks[b].keys.initial;
      for (int64_t p = initial.begin; p < initial.end; ++p) block.far.push_back(p);
      for (int64_t i = 0; i < blocks[b].num_selected; ++i) {
        block.far.push_back(PositionOf(selected[b * top_k + i]));
      }
      block.near = blocks[b].keys.near;
    }
    return keys;
  }
};

class RingPlanCudaTest : public CudaTest {
 protected:
  // Equal to PlanGroup, group by group, on each rank.
  void Check(const Reads& reads) {
    for (int rank = 0; rank < reads.layout.num_ranks; ++rank) CheckRank(reads, rank);
  }

  void CheckRank(const Reads& reads, int rank) {
    SCOPED_TRACE(testing::Message() << "rank " << rank << " of " << reads.layout.num_ranks);
    const int ranks = reads.layout.num_ranks;
    const ShardGeometry geometry = {static_cast<int32_t>(reads.layout.stripe_tokens), ranks, rank};
    std::vector<uint32_t> sent, arriving, ends;
    std::vector<int64_t> positions;  // of what arrives
    std::vector<uint32_t> arriving_ends;
    std::vector<std::vector<Range>> brought;
    for (int group = 0; group < reads.num_groups; ++group) {
      const RingRound round = PlanGroup(reads.layout, rank, reads.Group(group), &brought);
      for (int r = 0; r < ranks; ++r) {
        for (const Range& run : round.sends[r]) {
          for (int64_t p = run.begin; r != rank && p < run.end; ++p) {
            sent.push_back(static_cast<uint32_t>(geometry.OwnedBefore(p)));
          }
        }
        for (const Range& run : round.receives[r]) {
          for (int64_t p = run.begin; p < run.end; ++p) {
            // Only this rank needs to know where its own are.
            arriving.push_back(r == rank ? static_cast<uint32_t>(geometry.OwnedBefore(p))
                                         : ~uint32_t{0});
            positions.push_back(p);
          }
        }
        ends.push_back(static_cast<uint32_t>(sent.size()));
        arriving_ends.push_back(static_cast<uint32_t>(arriving.size()));
      }
    }
    ends.insert(ends.end(), arriving_ends.begin(), arriving_ends.end());

    const Buffer blocks = Upload(reads.blocks);
    const Buffer selected = Upload(reads.selected);
    const Buffer workspace =
        Poisoned(RingPlanWorkspaceBytes(geometry, reads.num_groups, reads.positions + 1000));
    const Buffer sent_out = Poisoned(std::ssize(sent) * 4 + 4);
    const Buffer arriving_out = Poisoned(std::ssize(arriving) * 4 + 4);
    const Buffer row_of = Poisoned(reads.positions * 4);
    const Buffer ends_out = Poisoned(std::ssize(ends) * 4);
    RingPlanArgs args;
    args.geometry = geometry;
    args.blocks = blocks.as<RingBlock>();
    args.num_blocks = static_cast<int>(reads.blocks.size());
    args.num_groups = reads.num_groups;
    args.selected = selected.as<Candidate>();
    args.selected_stride = reads.top_k;
    args.positions = reads.positions;
    args.workspace = workspace.data();
    args.sent = sent_out.as<uint32_t>();
    args.own = arriving_out.as<uint32_t>();
    args.row_of = row_of.as<uint32_t>();
    args.ends = ends_out.as<uint32_t>();
    ExpectOk(PlanRing(args, nullptr));

    EXPECT_EQ(Download<uint32_t>(ends_out.data(), std::ssize(ends)), ends);
    sent.push_back(~uint32_t{0});  // behind the last nothing is written
    EXPECT_EQ(Download<uint32_t>(sent_out.data(), std::ssize(sent)), sent);
    arriving.push_back(~uint32_t{0});
    EXPECT_EQ(Download<uint32_t>(arriving_out.data(), std::ssize(arriving)), arriving);
    std::vector<uint32_t> rows(reads.positions, ~uint32_t{0});
    for (size_t i = 0; i < positions.size(); ++i) rows[positions[i]] = static_cast<uint32_t>(i);
    EXPECT_EQ(Download<uint32_t>(row_of.data(), reads.positions), rows);
  }
};

std::vector<int64_t> SomeOf(Random* random, Range middle, int64_t count) {
  std::vector<int64_t> all;
  for (int64_t p = middle.begin; p < middle.end; ++p) all.push_back(p);
  std::shuffle(all.begin(), all.end(), random->engine());
  all.resize(std::min<int64_t>(count, std::ssize(all)));
  std::sort(all.begin(), all.end());
  return all;
}

TEST_F(RingPlanCudaTest, EqualsPlanGroup) {
  Random random(1);
  for (int trial = 0; trial < 40; ++trial) {
    Reads reads;
    reads.layout = {random.Integer(1, 70),
                    static_cast<int>(random.Integer(1, trial == 0 ? 200 : 8))};
    reads.num_groups = static_cast<int>(random.Integer(1, 4));
    reads.top_k = random.Integer(0, 300);
    const int64_t length = random.Integer(10, 5000);
    const int64_t num_blocks = random.Integer(1, 20);
    for (int64_t b = 0; b < num_blocks; ++b) {
      const int64_t initial = random.Integer(0, std::min<int64_t>(40, length / 4));
      const int64_t near = random.Integer(length / 2, length - 1);
      // Those of a group may read what an earlier group brought, and ranks may have no block.
      reads.Add(static_cast<int>(random.Integer(0, reads.layout.num_ranks - 1)),
                static_cast<int>(b * reads.num_groups / num_blocks), {initial / 2, initial},
                SomeOf(&random, {initial, near}, reads.top_k),
                {near, random.Integer(near + 1, length)});
    }
    Check(reads);
  }
}

// Bitmaps of several tiles, most of it read, and by all.
TEST_F(RingPlanCudaTest, PlansLongAndDenseContexts) {
  Random random(2);
  for (const int ranks : {1, 2, 3}) {
    Reads reads;
    reads.layout = {1000, ranks};
    reads.num_groups = 3;
    reads.top_k = 900;
    const int64_t length = 120001;
    for (int b = 0; b < 9; ++b) {
      const Range near = {b % 3 == 0 ? 5 : length - 10000 * b - 1, length - 777 * b};
      reads.Add(b % ranks, b / 3, {0, 4}, SomeOf(&random, {4, near.begin}, 900), near);
    }
    Check(reads);
  }
}

TEST_F(RingPlanCudaTest, RefusesToPlanNothing) {
  RingPlanArgs args;
  EXPECT_EQ(PlanRing(args, nullptr).code(), absl::StatusCode::kInvalidArgument);
}

}  // namespace
}  // namespace longspan::cuda
