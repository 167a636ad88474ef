#include <algorithm>
#include <cmath>
#include <cstdint>
#include <string>
#include <vector>

#include "gtest/gtest.h"
#include "kernels/cuda/decode_vote.h"
#include "sharding/attention_ranges.h"
#include "sharding/sequence_layout.h"
#include "tests/kernels/cuda_testing.h"
#include "tests/kernels/kernel_testing.h"
#include "tests/kernels/score_pages.h"
#include "tests/kernels/vote_testing.h"

namespace longspan::cuda {
namespace {

constexpr int64_t kInitial = 9, kLocal = 20;

struct Case {
  DType dtype = DType::kBFloat16;
  Voters voters;
  int32_t stripe = 64;
  int ranks = 1;
  int32_t halo = 1, proximity = 1;
  std::vector<int64_t> positions;  // of the tokens, one of each sequence
  bool has_score_pages = false;

  int64_t rows() const { return static_cast<int64_t>(positions.size()); }
  int64_t max_tokens() const { return *std::max_element(positions.begin(), positions.end()) + 40; }
  Range middle(size_t row) const { return {kInitial, std::max(kInitial, positions[row] - kLocal)}; }
  ScorePageShape page_shape(size_t row) const {
    return {{stripe, ranks}, dtype, voters.key_dim(), halo, positions[row] + 1, middle(row)};
  }
};

struct Inputs {
  Inputs(const Case& c, uint64_t seed) {
    Random random(seed);
    queries = random.Reals(c.rows() * c.voters.query_dim());
    for (const int64_t position : c.positions) {
      keys.push_back(Rounded(random.Reals((position + 1) * c.voters.key_dim()), c.dtype));
    }
  }
  std::vector<float> queries;            // [rows, query_dim]
  std::vector<std::vector<float>> keys;  // [rows][position + 1, key_dim]
};

struct Outputs {
  Agreed agreed;
  std::vector<std::vector<float>> scores;  // [row][max_tokens]
};

// One rank, with what it has in device memory.
struct Rank {
  Rank(const Case& c, int rank, const Inputs& inputs, const Buffer& queries) {
    std::vector<DecodeRow> rows;
    for (size_t r = 0; r < c.positions.size(); ++r) {
      pages.emplace_back(c.page_shape(r), rank, inputs.keys[r]);
      const auto* const table = pages.back().table.as<const std::byte*>();
      rows.push_back({c.has_score_pages ? nullptr : table, c.positions[r],
                      c.has_score_pages ? table : nullptr});
    }
    sequences = Upload(rows);
    blocks = Poisoned(c.rows() * static_cast<int64_t>(sizeof(ScoredBlock)));
    DecodeSelectArgs& keys = args.keys;
    keys.sequences = sequences.as<DecodeRow>();
    keys.max_tokens = SequenceLayout{c.stripe, c.ranks}.NumPages(0, c.max_tokens()) * c.stripe;
    keys.rows = static_cast<int>(c.rows());
    keys.queries = queries.as<float>();
    keys.dim = c.voters.key_dim();
    keys.dtype = c.dtype;
    keys.geometry = {c.stripe, c.ranks, rank};
    keys.halo = c.halo;
    keys.score_offset = ScorePages::kOffset;
    keys.initial_tokens = kInitial;
    keys.local_tokens = kLocal;
    keys.proximity = c.proximity;
    args.voters = c.voters;
    args.product_stride = MaxKeys(keys.max_tokens, keys.geometry, c.halo);
    products = Poisoned(c.rows() * c.voters.count * args.product_stride * 4);
    args.products = products.as<float>();
    args.blocks = blocks.as<ScoredBlock>();
    out.count = keys.geometry.OwnedBefore(c.max_tokens()) - keys.geometry.OwnedBefore(kInitial);
    scores = Poisoned((c.rows() * out.count + 1) * 4);
    out.scores = scores.as<float>();
  }

  std::vector<ScorePages> pages;
  Buffer sequences, blocks, products, scores;
  DecodeVoteArgs args;
  DecodeVotesOut out;
};

class DecodeVoteCudaTest : public CudaTest {
 protected:
  static void ExpectOk(const absl::Status& status) { ASSERT_TRUE(status.ok()) << status; }

  void Run(const Case& c, const Inputs& inputs, Outputs* out) {
    const Buffer queries = Upload(inputs.queries);
    std::vector<Rank> ranks;
    std::vector<RankNorms> norms;
    for (int r = 0; r < c.ranks; ++r) {
      ranks.emplace_back(c, r, inputs, queries);
      ExpectOk(DecodeVoteProducts(ranks[r].args, nullptr));
      norms.emplace_back(c.voters, c.rows());
      if (c.voters.soft) ExpectOk(DecodeVoteMaxima(ranks[r].args, norms[r].norms, nullptr));
    }
    if (c.voters.soft) {
      AgreeOnMaxima(&norms, &out->agreed);
      for (int r = 0; r < c.ranks; ++r) {
        ExpectOk(DecodeVoteSums(ranks[r].args, norms[r].norms, nullptr));
      }
      AgreeOnWeights(ranks[0].args.blocks, static_cast<int>(c.rows()), &norms, &out->agreed);
    }
    out->scores.assign(c.rows(), std::vector<float>(c.max_tokens(), kNan));
    for (int r = 0; r < c.ranks; ++r) {
      ExpectOk(DecodeVoteScores(ranks[r].args, norms[r].norms, ranks[r].out, nullptr));
      ReadScores(c, ranks[r], out);
    }
  }

  void ReadScores(const Case& c, const Rank& rank, Outputs* out) {
    const ShardGeometry& geometry = rank.args.keys.geometry;
    const int64_t count = rank.out.count, first = geometry.OwnedBefore(kInitial);
    const auto scores = Download<float>(rank.out.scores, c.rows() * count + 1);
    ASSERT_TRUE(std::isnan(scores.back()));
    const auto blocks = Download<ScoredBlock>(rank.args.blocks, c.rows());
    for (int64_t row = 0; row < c.rows(); ++row) {
      ASSERT_EQ(blocks[row].first_query, row);
      ASSERT_EQ(blocks[row].queries, 1);
      ASSERT_EQ(blocks[row].middle, c.middle(row));
      for (int64_t i = 0; i < count; ++i) {
        out->scores[row][geometry.Position(first + i)] = scores[row * count + i];
      }
    }
  }

  void Check(const Case& c, uint64_t seed) {
    const Inputs inputs(c, seed);
    Outputs actual;
    Check(c, inputs, &actual);
  }

  void Check(const Case& c, const Inputs& inputs, Outputs* actual) {
    Run(c, inputs, actual);
    const int64_t dim = c.voters.query_dim();
    for (int64_t row = 0; row < c.rows(); ++row) {
      if (HasFailure()) return;
      SCOPED_TRACE(testing::Message() << "row " << row);
      const Poll poll = {
          c.voters,
          {inputs.queries.begin() + row * dim, inputs.queries.begin() + (row + 1) * dim},
          inputs.keys[row],
          c.middle(row),
          row,
          c.rows()};
      if (c.voters.soft && !poll.middle.empty()) {
        poll.CheckMaxima(actual->agreed, 2e-5);
        poll.CheckSums(actual->agreed, 4e-4);
        if (HasFatalFailure()) return;
      }
      const std::vector<double> spread = Spread(poll.Scores(actual->agreed), c.proximity);
      std::vector<double> expected(c.max_tokens(), kNan);
      std::copy(spread.begin(), spread.end(), expected.begin() + kInitial);
      c.voters.soft ? ExpectRelativelyClose(actual->scores[row], expected, 4e-4)
                    : ExpectClose(actual->scores[row], expected, 2e-5);
    }
  }
};

// Rows with and without a middle.
const std::vector<int64_t> kPositions = {700, 5, 29, 30, 93, 300};

TEST_F(DecodeVoteCudaTest, EqualsReferenceOverDtypesAndVoters) {
  uint64_t seed = 1;
  for (const DType dtype : {DType::kFloat32, DType::kBFloat16, DType::kFloat8E4M3}) {
    for (const Voters& voters :
         {Heads(2, 2, 64), Heads(2, 4, 128), Heads(3, 1, 16), Heads(1, 5, 32), Heads(1, 9, 256),
          Heads(2, 2, 64, false), Heads(2, 7, 128, false), Groups(8, 16), Groups(1, 48),
          Groups(2, 8), Groups(5, 4)}) {
      if (voters.dim * SizeOf(dtype) % 16 != 0) continue;
      SCOPED_TRACE(testing::Message()
                   << std::string(DTypeName(dtype)) << ", " << voters.count << " voters, dim "
                   << voters.dim << (voters.soft ? "" : ", hard"));
      Check({.dtype = dtype,
             .voters = voters,
             .ranks = 2,
             .positions = kPositions,
             .has_score_pages = voters.to_a_slice == 1},
            ++seed);
      if (HasFailure()) return;
    }
  }
}

TEST_F(DecodeVoteCudaTest, EqualsReferenceOverRanksAndHalos) {
  uint64_t seed = 100;
  struct Margins {
    int32_t halo, proximity;
  };
  for (const bool soft : {false, true}) {
    for (const int ranks : {1, 2, 3, 5}) {
      for (const int32_t stripe : {16, 64}) {
        for (const Margins m : {Margins{0, 0}, Margins{3, 1}, Margins{16, 16}}) {
          SCOPED_TRACE(testing::Message()
                       << ranks << " ranks, stripe " << stripe << ", halo " << m.halo
                       << ", proximity " << m.proximity << (soft ? "" : ", hard"));
          Check({.voters = Heads(2, 2, 16, soft),
                 .stripe = stripe,
                 .ranks = ranks,
                 .halo = m.halo,
                 .proximity = m.proximity,
                 .positions = kPositions},
                ++seed);
          if (HasFailure()) return;
        }
      }
    }
  }
}

TEST_F(DecodeVoteCudaTest, LongRows) {
  for (const bool soft : {false, true}) {
    Check({.voters = Heads(2, 2, 16, soft),
           .stripe = 1024,
           .ranks = 2,
           .positions = {400'000, 70'000}},
          200);
    if (HasFailure()) return;
  }
}

TEST_F(DecodeVoteCudaTest, NanAndInfinityEqualReference) {
  for (int trial = 0; trial < 30; ++trial) {
    Random random(300 + trial);
    const Case c = {.dtype = random.OneOf({DType::kFloat32, DType::kBFloat16}),
                    .voters = Heads(2, random.OneOf<int64_t>({1, 2}), 16, trial % 3 != 0),
                    .ranks = random.OneOf({1, 2}),
                    .halo = 2,
                    .proximity = static_cast<int32_t>(random.Integer(0, 2)),
                    .positions = {500, 200}};
    SCOPED_TRACE(testing::Message() << "trial " << trial);
    Inputs inputs(c, 400 + trial);
    for (std::vector<float>& keys : inputs.keys) {
      for (int i = 0; i < 10; ++i) {
        keys[random.Integer(0, static_cast<int64_t>(keys.size()) - 1)] =
            random.OneOf({kNan, kInf, -kInf});
      }
    }
    Outputs actual;
    Check(c, inputs, &actual);
    if (HasFailure()) return;
  }
}

TEST_F(DecodeVoteCudaTest, BitsDependOnNothingElse) {
  for (const DType dtype : {DType::kFloat32, DType::kBFloat16, DType::kFloat8E4M3}) {
    for (const Voters& voters :
         {Heads(2, 2, 64), Heads(1, 6, 128), Groups(8, 16), Heads(2, 2, 64, false)}) {
      const Case together = {.dtype = dtype, .voters = voters, .positions = kPositions};
      const Inputs inputs(together, 500);
      Outputs expected;
      Run(together, inputs, &expected);
      for (const int ranks : {2, 3, 5}) {
        SCOPED_TRACE(testing::Message() << ranks << " ranks");
        Case c = together;
        c.ranks = ranks;
        c.stripe = 32;
        Outputs actual;
        Run(c, inputs, &actual);
        ExpectSameBits(actual.agreed.maxima, expected.agreed.maxima);
        EXPECT_EQ(actual.agreed.sums, expected.agreed.sums);
        for (int64_t row = 0; row < c.rows(); ++row) {
          ExpectSameBits(actual.scores[row], expected.scores[row]);
        }
        if (HasFailure()) return;
      }
    }
  }
}

TEST_F(DecodeVoteCudaTest, ReplaysWithOtherPositions) {
  Case c = {.voters = Heads(2, 2, 64), .positions = {700, 300}};
  const Inputs inputs(c, 600);
  const Buffer queries = Upload(inputs.queries);
  const Rank rank(c, 0, inputs, queries);
  const absl::StatusOr<StreamHandle> stream = StreamHandle::Create();
  ASSERT_TRUE(stream.ok()) << stream.status();
  const RankNorms of_rank(c.voters, c.rows());
  const VoteNorms& norms = of_rank.norms;
  const absl::StatusOr<Graph> graph = Graph::Capture(stream->get(), [&]() -> absl::Status {
    const Stream s = stream->get();
    for (const absl::Status& status :
         {ClearVoteNorms(c.voters, norms, s), DecodeVoteProducts(rank.args, s),
          DecodeVoteMaxima(rank.args, norms, s), DecodeVoteSums(rank.args, norms, s),
          SplitVoteSums(c.voters, norms, s),
          WeighVotes(c.voters, norms, rank.args.blocks, rank.args.keys.rows, s),
          DecodeVoteScores(rank.args, norms, rank.out, s)}) {
      if (!status.ok()) return status;
    }
    return absl::OkStatus();
  });
  ASSERT_TRUE(graph.ok()) << graph.status();
  for (const std::vector<int64_t>& positions :
       {std::vector<int64_t>{700, 300}, {650, 299}, {31, 12}, {120, 300}}) {
    auto rows = Download<DecodeRow>(rank.sequences.data(), 2);
    Case now = c;
    now.positions = positions;
    for (int r = 0; r < 2; ++r) rows[r].position = positions[r];
    ExpectOk(Copy(rank.sequences.data(), rows.data(), sizeof(DecodeRow) * 2, nullptr));
    ExpectOk(Synchronize(nullptr));
    ExpectOk(graph->Launch(stream->get()));
    ExpectOk(Synchronize(stream->get()));
    Outputs replayed, called;
    replayed.scores.assign(2, std::vector<float>(c.max_tokens(), kNan));
    ReadScores(now, rank, &replayed);
    Run(now, inputs, &called);
    for (int r = 0; r < 2; ++r) {
      const auto tokens = static_cast<int64_t>(called.scores[r].size());
      ExpectSameBits({replayed.scores[r].data(), static_cast<size_t>(tokens)}, called.scores[r]);
    }
    if (HasFailure()) return;
  }
}

TEST_F(DecodeVoteCudaTest, RefusesWhatItCannotScore) {
  DecodeVoteArgs args;
  args.keys.geometry = {64, 1, 0};
  args.keys.dim = 64;
  args.keys.max_tokens = 128;
  args.product_stride = 128;
  args.voters = Groups(4, 16);
  EXPECT_TRUE(DecodeVoteProducts(args, nullptr).ok());  // no rows
  for (const Voters& voters : {Groups(16, 4), Groups(4, 8), Voters{.count = 0, .dim = 16}}) {
    DecodeVoteArgs wrong = args;
    wrong.voters = voters;
    EXPECT_TRUE(absl::IsInvalidArgument(DecodeVoteProducts(wrong, nullptr)));
  }
  args.product_stride = 127;
  EXPECT_TRUE(absl::IsInvalidArgument(DecodeVoteProducts(args, nullptr)));
}

}  // namespace
}  // namespace longspan::cuda
