#include <algorithm>
#include <cmath>
#include <cstdint>
#include <string>
#include <vector>

#include "gtest/gtest.h"
#include "kernels/cuda/vote_score.h"
#include "kernels/reference/reference.h"
#include "sharding/sequence_layout.h"
#include "tests/kernels/cuda_testing.h"
#include "tests/kernels/kernel_testing.h"
#include "tests/kernels/score_pages.h"
#include "tests/kernels/vote_testing.h"

namespace longspan::cuda {
namespace {

constexpr int64_t kGap = 3;  // rows of queries between two blocks, of none

struct Block {
  int64_t queries = 0;
  Range middle;
};

struct Case {
  DType dtype = DType::kBFloat16;
  Voters voters;
  int32_t stripe = 64;
  int ranks = 1;
  int32_t halo = 1, proximity = 1;
  int64_t tokens = 700;
  std::vector<Block> blocks;

  DType query_dtype() const { return dtype == DType::kFloat8E4M3 ? DType::kBFloat16 : dtype; }
  // As in prefill_score_cuda_test.cc, of products; and of exponentials of them.
  double tolerance() const { return dtype == DType::kFloat32 ? 2e-5 : 1e-4; }
  double share_tolerance() const { return 20 * tolerance(); }
  Range hull() const {
    Range hull = {tokens, 0};
    for (const Block& block : blocks) {
      if (block.middle.empty()) continue;
      hull.begin = std::min(hull.begin, block.middle.begin);
      hull.end = std::max(hull.end, block.middle.end);
    }
    return hull;
  }
  ScorePageShape page_shape() const {
    return {{stripe, ranks}, dtype, voters.key_dim(), halo, tokens, hull()};
  }
  int64_t first_query(size_t block) const {
    int64_t row = kGap;
    for (size_t b = 0; b < block; ++b) row += blocks[b].queries + kGap;
    return row;
  }
  int64_t rows() const { return first_query(blocks.size()); }
};

struct Inputs {
  Inputs(const Case& c, uint64_t seed) {
    Random random(seed);
    queries = Rounded(random.Reals(c.rows() * c.voters.query_dim()), c.query_dtype());
    keys = Rounded(random.Reals(c.tokens * c.voters.key_dim()), c.dtype);
  }
  std::vector<float> queries;  // [rows, query_dim]
  std::vector<float> keys;     // [tokens, key_dim]
};

struct Outputs {
  Agreed agreed;
  std::vector<std::vector<float>> scores;  // [block][token], NaN where none was written
};

class VoteScoreCudaTest : public CudaTest {
 protected:
  void Run(const Case& c, const Inputs& inputs, Outputs* out) {
    const Buffer queries = UploadAs(inputs.queries, c.query_dtype());
    std::vector<ScoredBlock> blocks;
    VoteScoreArgs args;
    args.voters = c.voters;
    for (size_t b = 0; b < c.blocks.size(); ++b) {
      blocks.push_back({c.first_query(b), c.blocks[b].queries, c.blocks[b].middle});
      args.blocks.max_queries = std::max(args.blocks.max_queries, c.blocks[b].queries);
    }
    const Buffer device_blocks = Upload(blocks);
    args.blocks.dtype = c.dtype;
    args.blocks.dim = c.voters.key_dim();
    args.blocks.halo = c.halo;
    args.blocks.score_offset = ScorePages::kOffset;
    args.blocks.queries = queries.data();
    args.blocks.blocks = device_blocks.as<ScoredBlock>();
    args.blocks.num_blocks = static_cast<int>(blocks.size());
    args.blocks.hull = c.hull();

    std::vector<ScorePages> pages;
    std::vector<VoteScoreArgs> of_rank;
    std::vector<RankNorms> norms;
    for (int rank = 0; rank < c.ranks; ++rank) {
      pages.emplace_back(c.page_shape(), rank, inputs.keys);
      args.blocks.pages = pages.back().table.as<const std::byte*>();
      args.blocks.geometry = {c.stripe, c.ranks, rank};
      of_rank.push_back(args);
      norms.emplace_back(c.voters, c.rows());
      ExpectOk(PrefillVoteMaxima(args, norms.back().norms, nullptr));
    }
    AgreeOnMaxima(&norms, &out->agreed);
    if (c.voters.soft) {
      for (int rank = 0; rank < c.ranks; ++rank) {
        ExpectOk(PrefillVoteSums(of_rank[rank], norms[rank].norms, nullptr));
      }
      AgreeOnWeights(args.blocks.blocks, args.blocks.num_blocks, &norms, &out->agreed);
    }
    out->scores.assign(blocks.size(), std::vector<float>(c.tokens, kNan));
    for (int rank = 0; rank < c.ranks; ++rank) {
      RunLastPass(c, of_rank[rank], norms[rank].norms, out);
    }
  }

  void RunLastPass(const Case& c, const VoteScoreArgs& args, const VoteNorms& norms, Outputs* out) {
    const ShardGeometry& geometry = args.blocks.geometry;
    const Range hull = args.blocks.hull;
    const int64_t first = geometry.OwnedBefore(hull.begin);
    const int64_t own = geometry.OwnedBefore(hull.end) - first;
    const Buffer scores = Poisoned((args.blocks.num_blocks * own + 1) * 4);
    const Buffer workspace = Poisoned(
        PrefillScoresWorkspaceBytes(geometry, c.halo, args.blocks.num_blocks, hull.size()) + 16);
    const PrefillScoresOut scores_out = {scores.as<float>(), own, c.proximity,
                                         workspace.as<float>()};
    ExpectOk(PrefillVoteScores(args, norms, scores_out, nullptr));
    const auto all = Download<float>(scores.data(), args.blocks.num_blocks * own);
    for (int b = 0; b < args.blocks.num_blocks; ++b) {
      for (int64_t i = 0; i < own; ++i) {
        out->scores[b][geometry.Position(first + i)] = all[b * own + i];
      }
    }
  }

  static void ExpectOk(const absl::Status& status) { ASSERT_TRUE(status.ok()) << status; }

  static Poll PollOf(const Case& c, const Inputs& inputs, size_t b) {
    const int64_t dim = c.voters.query_dim(), first = c.first_query(b);
    return {c.voters,
            {inputs.queries.begin() + first * dim,
             inputs.queries.begin() + (first + c.blocks[b].queries) * dim},
            inputs.keys,
            c.blocks[b].middle,
            first,
            c.rows()};
  }

  void Check(const Case& c, uint64_t seed) {
    const Inputs inputs(c, seed);
    Outputs actual;
    Check(c, inputs, &actual);
  }

  void Check(const Case& c, const Inputs& inputs, Outputs* actual) {
    Run(c, inputs, actual);
    for (size_t b = 0; b < c.blocks.size(); ++b) {
      if (HasFailure()) return;
      SCOPED_TRACE(testing::Message() << "block " << b);
      const Poll poll = PollOf(c, inputs, b);
      poll.CheckMaxima(actual->agreed, c.tolerance());
      if (c.voters.soft && !poll.middle.empty()) {
        poll.CheckSums(actual->agreed, c.share_tolerance());
      }
      if (HasFatalFailure()) return;
      const std::vector<double> spread = Spread(poll.Scores(actual->agreed), c.proximity);
      std::vector<double> expected;
      for (int64_t p = c.hull().begin; p < c.hull().end; ++p) {
        expected.push_back(poll.middle.contains(p) ? spread[p - poll.middle.begin] : kNan);
      }
      SCOPED_TRACE("scores");
      const absl::Span<const float> scores = {actual->scores[b].data() + c.hull().begin,
                                              expected.size()};
      c.voters.soft ? ExpectRelativelyClose(scores, expected, c.share_tolerance())
                    : ExpectClose(scores, expected, c.tolerance());
    }
  }
};

const std::vector<Block>& SomeBlocks() {
  static const auto* blocks =
      new std::vector<Block>{{64, {16, 500}}, {64, {16, 564}}, {33, {70, 601}}};
  return *blocks;
}

TEST_F(VoteScoreCudaTest, EqualsReferenceOverDtypesAndVoters) {
  uint64_t seed = 1;
  for (const DType dtype : {DType::kFloat32, DType::kBFloat16, DType::kFloat8E4M3}) {
    for (const Voters& voters :
         {Heads(2, 2, 64), Heads(2, 4, 128), Heads(3, 1, 16), Heads(1, 5, 32), Heads(1, 1, 256),
          Heads(2, 2, 64, false), Heads(2, 3, 128, false), Heads(4, 1, 16, false), Groups(8, 16),
          Groups(4, 32), Groups(1, 48), Groups(3, 80), Groups(2, 8), Groups(5, 4)}) {
      if (voters.dim * SizeOf(dtype) % 16 != 0) continue;
      SCOPED_TRACE(testing::Message()
                   << std::string(DTypeName(dtype)) << ", " << voters.count << " voters, dim "
                   << voters.dim << (voters.soft ? "" : ", hard"));
      Check({.dtype = dtype, .voters = voters, .ranks = 2, .blocks = SomeBlocks()}, ++seed);
      if (HasFailure()) return;
    }
  }
}

TEST_F(VoteScoreCudaTest, EqualsReferenceOverRanksHalosAndQueries) {
  uint64_t seed = 100;
  struct Margins {
    int32_t halo, proximity;
  };
  for (const bool soft : {false, true}) {
    for (const int ranks : {1, 3}) {
      for (const int32_t stripe : {64, 256}) {
        for (const Margins m : {Margins{0, 0}, Margins{3, 1}, Margins{64, 64}}) {
          for (const int64_t queries : {1, 127, 129, 300}) {
            SCOPED_TRACE(testing::Message() << ranks << " ranks, stripe " << stripe << ", halo "
                                            << m.halo << ", proximity " << m.proximity << ", "
                                            << queries << " queries" << (soft ? "" : ", hard"));
            Check({.voters = Heads(2, 2, 16, soft),
                   .stripe = stripe,
                   .ranks = ranks,
                   .halo = m.halo,
                   .proximity = m.proximity,
                   .tokens = 1100,
                   .blocks = {{queries, {200, 900}}, {16, {200, 1001}}, {5, {256, 1024}}}},
                  ++seed);
            if (HasFailure()) return;
          }
        }
      }
    }
  }
}

// Several jobs of every thread block, and tiles of whole pages.
TEST_F(VoteScoreCudaTest, EqualsReferenceOnLongSequences) {
  for (const bool soft : {false, true}) {
    for (const int ranks : {1, 2}) {
      SCOPED_TRACE(testing::Message() << ranks << " ranks" << (soft ? "" : ", hard"));
      Check({.voters = Heads(2, 2, 16, soft),
             .stripe = 4096,
             .ranks = ranks,
             .tokens = 30'000,
             .blocks = {{64, {128, 20'000}}, {20, {128, 20'064}}, {150, {5000, 29'000}}}},
            300 + ranks);
      if (HasFailure()) return;
    }
  }
}

TEST_F(VoteScoreCudaTest, BlocksMayHaveNoQueriesNoMiddleOrNoOwnKeys) {
  for (const bool soft : {false, true}) {
    Check({.voters = Heads(2, 2, 64, soft),
           .ranks = 3,
           .halo = 3,
           .proximity = 3,
           .tokens = 1000,
           .blocks = {{0, {16, 500}},
                      {64, {300, 300}},
                      {64, {70, 71}},    // one key, of rank 1
                      {64, {64, 128}},   // a stripe
                      {64, {128, 129}},  // the first of a stripe
                      {7, {191, 192}},   // the last
                      {64, {400, 800}}}},
          400);
    if (HasFailure()) return;
    // Ranks without any key of the hull.
    Check(
        {.voters = Heads(2, 2, 64, soft), .ranks = 3, .tokens = 1000, .blocks = {{64, {70, 120}}}},
        401);
    if (HasFailure()) return;
  }
}

TEST_F(VoteScoreCudaTest, EqualKeysShareTheVote) {
  for (const DType dtype : {DType::kFloat32, DType::kBFloat16, DType::kFloat8E4M3}) {
    const Case c = {.dtype = dtype, .voters = Heads(2, 2, 48), .ranks = 3, .blocks = SomeBlocks()};
    Inputs inputs(c, 500);
    const int64_t dim = c.voters.key_dim();
    for (int64_t p = 1; p < c.tokens; ++p) {
      std::copy_n(inputs.keys.begin(), dim, inputs.keys.begin() + p * dim);
    }
    Outputs actual;
    Check(c, inputs, &actual);
    if (HasFailure()) return;
    for (size_t b = 0; b < c.blocks.size(); ++b) {
      const Range middle = c.blocks[b].middle;
      for (const uint64_t sum : PollOf(c, inputs, b).Part(actual.agreed.sums)) {
        ASSERT_EQ(sum, static_cast<uint64_t>(middle.size()) << SumBits(middle.size()));
      }
      const std::vector<float> scores(actual.scores[b].begin() + middle.begin,
                                      actual.scores[b].begin() + middle.end);
      ExpectSameBits(scores, std::vector<float>(scores.size(), scores[0]));
    }
  }
}

TEST_F(VoteScoreCudaTest, NanAndInfinityEqualReference) {
  for (int trial = 0; trial < 40; ++trial) {
    Random random(600 + trial);
    const DType dtype = random.OneOf({DType::kFloat32, DType::kBFloat16, DType::kFloat8E4M3});
    const Case c = {.dtype = dtype,
                    .voters = Heads(2, random.OneOf<int64_t>({1, 2}),
                                    random.OneOf<int64_t>({16, 64, 128}), trial % 3 != 0),
                    .ranks = random.OneOf({1, 2}),
                    .halo = 2,
                    .proximity = static_cast<int32_t>(random.Integer(0, 2)),
                    .blocks = SomeBlocks()};
    SCOPED_TRACE(testing::Message() << "trial " << trial);
    Inputs inputs(c, 700 + trial);
    const auto spoil = [&](std::vector<float>* values, int64_t count) {
      for (int64_t i = 0; i < count; ++i) {
        (*values)[random.Integer(0, static_cast<int64_t>(values->size()) - 1)] =
            random.OneOf({kNan, kInf, -kInf});
      }
    };
    spoil(&inputs.keys, random.Integer(1, 30));
    if (dtype == DType::kFloat8E4M3) {  // which has no infinities
      for (float& key : inputs.keys) key = std::isinf(key) ? kNan : key;
    }
    if (trial % 2 == 0) spoil(&inputs.queries, random.Integer(0, 3));
    // Neighbours, so that proximity finds nothing but NaN.
    std::fill_n(inputs.keys.begin() + 100 * c.voters.key_dim(), 5 * c.voters.key_dim(), kNan);
    Outputs actual;
    Check(c, inputs, &actual);
    if (HasFailure()) return;
    EXPECT_TRUE(std::isnan(actual.scores[0][102]));
  }
}

// The bits of a block do not depend on the ranks, on the other blocks, or on the hull.
TEST_F(VoteScoreCudaTest, BitsDependOnNothingElse) {
  for (const DType dtype : {DType::kFloat32, DType::kBFloat16, DType::kFloat8E4M3}) {
    for (const Voters& voters :
         {Heads(2, 2, 64), Heads(2, 2, 128), Groups(8, 16), Heads(2, 2, 64, false)}) {
      SCOPED_TRACE(testing::Message()
                   << std::string(DTypeName(dtype)) << ", " << voters.count << " voters, dim "
                   << voters.dim << (voters.soft ? "" : ", hard"));
      const Case together = {.dtype = dtype,
                             .voters = voters,
                             .tokens = 900,
                             .blocks = {{130, {16, 500}}, {130, {16, 630}}, {130, {37, 760}}}};
      const Inputs inputs(together, 800);
      Outputs expected;
      Run(together, inputs, &expected);
      for (const int ranks : {2, 3, 5}) {
        Case c = together;
        c.ranks = ranks;
        Outputs actual;
        Run(c, inputs, &actual);
        ExpectSameBits(actual.agreed.maxima, expected.agreed.maxima);
        EXPECT_EQ(actual.agreed.sums, expected.agreed.sums) << ranks << " ranks";
        for (size_t b = 0; b < c.blocks.size(); ++b) {
          ExpectSameBits(actual.scores[b], expected.scores[b]);
        }
        if (HasFailure()) return;
      }
      for (size_t b = 0; b < together.blocks.size(); ++b) {
        Case c = together;
        c.stripe = 128;
        c.blocks = {together.blocks[b]};
        Inputs alone = inputs;
        alone.queries.erase(
            alone.queries.begin(),
            alone.queries.begin() + (together.first_query(b) - kGap) * voters.query_dim());
        alone.queries.resize(c.rows() * voters.query_dim());
        Outputs actual;
        Run(c, alone, &actual);
        const Range middle = c.blocks[0].middle;
        const auto part = [&](const std::vector<float>& scores) {
          return std::vector<float>(scores.begin() + middle.begin, scores.begin() + middle.end);
        };
        ExpectSameBits(part(actual.scores[0]), part(expected.scores[b]));
        if (HasFailure()) return;
      }
    }
  }
}

TEST_F(VoteScoreCudaTest, RefusesWhatItCannotScore) {
  VoteScoreArgs args;
  args.blocks.geometry = {64, 1, 0};
  args.blocks.dim = 64;
  args.blocks.halo = 1;
  args.blocks.hull = {0, 100};
  args.voters = Groups(4, 16);
  EXPECT_TRUE(PrefillVoteMaxima(args, {}, nullptr).ok());  // no blocks
  for (const Voters& voters :
       {Groups(16, 4), Groups(4, 8), Voters{.count = 3, .dim = 64, .to_a_slice = 2},
        Voters{.count = 0, .dim = 16}}) {
    args.voters = voters;
    EXPECT_TRUE(absl::IsInvalidArgument(PrefillVoteMaxima(args, {}, nullptr)));
    EXPECT_TRUE(absl::IsInvalidArgument(PrefillVoteSums(args, {}, nullptr)));
    EXPECT_TRUE(absl::IsInvalidArgument(PrefillVoteScores(args, {}, {}, nullptr)));
  }
}

}  // namespace
}  // namespace longspan::cuda
