#include <cuda_runtime.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <string>
#include <vector>

#include "gtest/gtest.h"
#include "kernels/cuda/prefill_score.h"
#include "kernels/reference/reference.h"
#include "sharding/sequence_layout.h"
#include "tests/kernels/cuda_testing.h"
#include "tests/kernels/kernel_testing.h"
#include "tests/kernels/score_pages.h"

namespace longspan::cuda {
namespace {

constexpr int64_t kGap = 3;          // rows of queries between two blocks, of none
constexpr int64_t kSpareScores = 5;  // of a row, behind the last position
constexpr float kUntouched = std::bit_cast<float>(0xffffffffu);

struct Block {
  int64_t queries = 0;
  Range middle;
};

struct Case {
  DType dtype = DType::kBFloat16;
  int64_t dim = 128;
  int32_t stripe = 64;
  int ranks = 1;
  int32_t halo = 1, proximity = 1;
  int64_t tokens = 700;
  std::vector<Block> blocks;

  SequenceLayout layout() const { return {stripe, ranks}; }
  DType query_dtype() const { return dtype == DType::kFloat8E4M3 ? DType::kBFloat16 : dtype; }
  bool fits() const { return dim * SizeOf(dtype) % 16 == 0; }
  // Products of float32 numbers are rounded, those of bfloat16 are not but their sums are
  // truncated.
  // Sums of more products round more.
  double tolerance() const {
    const double longer = std::max(1.0, static_cast<double>(dim) / 256);
    return (dtype == DType::kFloat32 ? 2e-5 : 1e-4) * longer;
  }
  Range hull() const {
    Range hull = {tokens, 0};
    for (const Block& block : blocks) {
      if (block.middle.empty()) continue;
      hull.begin = std::min(hull.begin, block.middle.begin);
      hull.end = std::max(hull.end, block.middle.end);
    }
    return hull;
  }
  ScorePageShape page_shape() const { return {layout(), dtype, dim, halo, tokens, hull()}; }
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
    queries = Rounded(random.Reals(c.rows() * c.dim), c.query_dtype());
    keys = Rounded(random.Reals(c.tokens * c.dim), c.dtype);
  }
  std::vector<float> queries;  // [rows, dim]
  std::vector<float> keys;     // [tokens, dim]
};

struct Outputs {
  std::vector<std::vector<float>> rank_maxima;  // [rank][row]
  std::vector<float> maxima;                    // over the ranks
  std::vector<std::vector<float>> scores;       // [block][token], NaN where none was written
};

class PrefillScoreCudaTest : public CudaTest {
 protected:
  void Run(const Case& c, const Inputs& inputs, Outputs* out) {
    const Buffer queries = UploadAs(inputs.queries, c.query_dtype());
    std::vector<ScoredBlock> blocks;
    PrefillScoreArgs args;
    for (size_t b = 0; b < c.blocks.size(); ++b) {
      blocks.push_back({c.first_query(b), c.blocks[b].queries, c.blocks[b].middle});
      args.max_queries = std::max(args.max_queries, c.blocks[b].queries);
    }
    const Buffer device_blocks = Upload(blocks);
    args.dtype = c.dtype;
    args.dim = c.dim;
    args.halo = c.halo;
    args.score_offset = ScorePages::kOffset;
    args.queries = queries.data();
    args.blocks = device_blocks.as<ScoredBlock>();
    args.num_blocks = static_cast<int>(blocks.size());
    args.hull = c.hull();

    std::vector<ScorePages> pages;
    out->maxima.assign(c.rows(), -kInf);
    for (int rank = 0; rank < c.ranks; ++rank) {
      pages.emplace_back(c.page_shape(), rank, inputs.keys);
      args.pages = pages.back().table.as<const std::byte*>();
      args.geometry = {c.stripe, c.ranks, rank};
      const Buffer maxima = Poisoned(c.rows() * 4);
      const absl::Status status = PrefillMaxima(args, maxima.as<float>(), nullptr);
      ASSERT_TRUE(status.ok()) << status;
      out->rank_maxima.push_back(Download<float>(maxima.data(), c.rows()));
      for (int64_t row = 0; row < c.rows(); ++row) {
        const float maximum = out->rank_maxima.back()[row];
        if (maximum > out->maxima[row]) out->maxima[row] = maximum;
      }
    }
    const Buffer maxima = Upload(out->maxima);
    out->scores.assign(blocks.size(), std::vector<float>(c.tokens, kNan));
    for (int rank = 0; rank < c.ranks; ++rank) {
      args.pages = pages[rank].table.as<const std::byte*>();
      args.geometry = {c.stripe, c.ranks, rank};
      RunSecondPass(c, args, maxima, out);
      if (HasFatalFailure()) return;
    }
  }

  void RunSecondPass(const Case& c, const PrefillScoreArgs& args, const Buffer& maxima,
                     Outputs* out) {
    const Range hull = args.hull;
    const int64_t first = args.geometry.OwnedBefore(hull.begin);
    const int64_t own = args.geometry.OwnedBefore(hull.end) - first;
    PrefillScoresOut scores_out;
    scores_out.row_stride = own + kSpareScores;
    scores_out.proximity = c.proximity;
    const Buffer scores = Poisoned(args.num_blocks * scores_out.row_stride * 4);
    scores_out.scores = scores.as<float>();
    const int64_t workspace_bytes =
        PrefillScoresWorkspaceBytes(args.geometry, c.halo, args.num_blocks, hull.size());
    constexpr int64_t kGuard = 256;
    const Buffer workspace = Poisoned(workspace_bytes + kGuard);
    scores_out.workspace = workspace.as<float>();
    const absl::Status status = PrefillScores(args, maxima.as<float>(), scores_out, nullptr);
    ASSERT_TRUE(status.ok()) << status;
    for (const uint8_t byte : Download<uint8_t>(workspace.data() + workspace_bytes, kGuard)) {
      ASSERT_EQ(byte, 0xff) << "behind the workspace";
    }
    const auto all = Download<float>(scores.data(), args.num_blocks * scores_out.row_stride);
    for (int b = 0; b < args.num_blocks; ++b) {
      const float* row = all.data() + b * scores_out.row_stride;
      for (int64_t i = 0; i < own; ++i) out->scores[b][args.geometry.Position(first + i)] = row[i];
      for (int64_t i = own; i < scores_out.row_stride; ++i) {
        ASSERT_EQ(std::bit_cast<uint32_t>(row[i]), std::bit_cast<uint32_t>(kUntouched));
      }
    }
  }

  // The maxima of each rank, and the scores at those maxima, as the reference has them.
  void CheckBlock(const Case& c, const Inputs& inputs, const Outputs& actual, size_t b) {
    const Block& block = c.blocks[b];
    const int64_t first = c.first_query(b), count = block.middle.size();
    const float* queries = inputs.queries.data() + first * c.dim;
    const ScoreKeys keys = {inputs.keys.data() + block.middle.begin * c.dim, DType::kFloat32,
                            count};
    const std::vector<double> all = reference::Scores(queries, block.queries, c.dim, keys);
    for (int rank = 0; rank < c.ranks; ++rank) {
      SCOPED_TRACE(testing::Message() << "maxima of rank " << rank);
      std::vector<double> expected(block.queries, -kInf);
      for (int64_t m = 0; m < count; ++m) {
        if (c.layout().owner(block.middle.begin + m) != rank) continue;
        for (int64_t q = 0; q < block.queries; ++q) {
          const double score = all[q * count + m];
          if (score > expected[q]) expected[q] = score;
        }
      }
      const float* maxima = actual.rank_maxima[rank].data() + first;
      ExpectClose({maxima, static_cast<size_t>(block.queries)}, expected, c.tolerance());
      if (HasFatalFailure()) return;
    }
    std::vector<double> best(count);
    reference::ScoreBlock(queries, block.queries, c.dim, keys, actual.maxima.data() + first,
                          best.data());
    const std::vector<double> spread = Spread(best, c.proximity);
    std::vector<double> expected;
    for (int64_t p = c.hull().begin; p < c.hull().end; ++p) {
      expected.push_back(block.middle.contains(p) ? spread[p - block.middle.begin] : kNan);
    }
    SCOPED_TRACE("scores");
    ExpectClose({actual.scores[b].data() + c.hull().begin, expected.size()}, expected,
                c.tolerance());
  }

  void Check(const Case& c, const Inputs& inputs, Outputs* actual) {
    Run(c, inputs, actual);
    if (HasFatalFailure()) return;
    for (const std::vector<float>& maxima : actual->rank_maxima) {
      for (size_t b = 0; b <= c.blocks.size(); ++b) {
        for (int64_t row = c.first_query(b) - kGap; row < c.first_query(b); ++row) {
          ASSERT_EQ(std::bit_cast<uint32_t>(maxima[row]), std::bit_cast<uint32_t>(kUntouched))
              << "row " << row << " is of no block";
        }
      }
    }
    for (size_t b = 0; b < c.blocks.size(); ++b) {
      SCOPED_TRACE(testing::Message() << "block " << b);
      CheckBlock(c, inputs, *actual, b);
      if (HasFatalFailure()) return;
    }
  }

  // Of finite numbers: then the best key of every query scores 0, and nothing scores more.
  void CheckFinite(const Case& c, uint64_t seed) {
    const Inputs inputs(c, seed);
    Outputs actual;
    Check(c, inputs, &actual);
    if (HasFatalFailure()) return;
    for (size_t b = 0; b < c.blocks.size(); ++b) {
      if (c.blocks[b].queries == 0 || c.blocks[b].middle.empty()) continue;
      const Range hull = c.hull();
      float best = kNan;
      for (int64_t p = hull.begin; p < hull.end; ++p) best = std::fmax(best, actual.scores[b][p]);
      ASSERT_EQ(best, 0.0f) << "block " << b;
    }
  }
};

const std::vector<Block>& SomeBlocks() {
  static const auto* blocks =
      new std::vector<Block>{{64, {16, 500}}, {64, {16, 564}}, {33, {70, 601}}};
  return *blocks;
}

TEST_F(PrefillScoreCudaTest, EqualsReferenceOverDtypesAndDims) {
  uint64_t seed = 1;
  for (const DType dtype : {DType::kFloat32, DType::kBFloat16, DType::kFloat8E4M3}) {
    for (const int64_t dim : {8, 16, 24, 48, 64, 96, 128, 136, 144, 256, 1024}) {
      SCOPED_TRACE(testing::Message() << std::string(DTypeName(dtype)) << ", dim " << dim);
      const Case c = {.dtype = dtype, .dim = dim, .blocks = SomeBlocks()};
      if (!c.fits()) continue;
      CheckFinite(c, ++seed);
      if (HasFatalFailure()) return;
    }
  }
}

TEST_F(PrefillScoreCudaTest, EqualsReferenceOverRanksAndHalos) {
  uint64_t seed = 100;
  struct Margins {
    int32_t halo, proximity;
  };
  for (const DType dtype : {DType::kFloat32, DType::kBFloat16, DType::kFloat8E4M3}) {
    for (const int64_t dim : {32, 160}) {
      for (const int ranks : {1, 2, 3}) {
        for (const int32_t stripe : {64, 256}) {
          for (const Margins m : {Margins{0, 0}, Margins{1, 1}, Margins{3, 3}, Margins{3, 1},
                                  Margins{3, 0}, Margins{64, 64}}) {
            SCOPED_TRACE(testing::Message()
                         << std::string(DTypeName(dtype)) << ", dim " << dim << ", stripe "
                         << stripe << ", " << ranks << " ranks, halo " << m.halo << ", proximity "
                         << m.proximity);
            CheckFinite({.dtype = dtype,
                         .dim = dim,
                         .stripe = stripe,
                         .ranks = ranks,
                         .halo = m.halo,
                         .proximity = m.proximity,
                         .tokens = 1100,
                         .blocks = {{16, {200, 900}}, {16, {200, 1001}}, {5, {256, 1024}}}},
                        ++seed);
            if (HasFatalFailure()) return;
          }
        }
      }
    }
  }
}

TEST_F(PrefillScoreCudaTest, EqualsReferenceOverNumbersOfQueries) {
  uint64_t seed = 200;
  for (const DType dtype : {DType::kFloat32, DType::kBFloat16, DType::kFloat8E4M3}) {
    for (const int64_t queries : {1, 16, 63, 64, 65, 128, 129, 192, 193, 256, 257, 512, 700}) {
      SCOPED_TRACE(testing::Message() << std::string(DTypeName(dtype)) << ", " << queries);
      CheckFinite({.dtype = dtype,
                   .dim = 64,
                   .stripe = 512,
                   .ranks = 2,
                   .tokens = 1500,
                   .blocks = {{queries, {16, 1200}}, {queries / 2, {16, 1400}}}},
                  ++seed);
      if (HasFatalFailure()) return;
    }
  }
}

// Whole tiles of one page, several jobs of every thread block, and many of none.
TEST_F(PrefillScoreCudaTest, EqualsReferenceOnLongSequences) {
  std::vector<Block> blocks;
  for (int64_t b = 0; b < 300; ++b) blocks.push_back({16, {16, 1000 + 16 * b}});
  for (const DType dtype : {DType::kBFloat16, DType::kFloat8E4M3}) {
    for (const int64_t dim : {64, 128}) {
      for (const int ranks : {1, 2}) {
        SCOPED_TRACE(testing::Message() << std::string(DTypeName(dtype)) << ", dim " << dim << ", "
                                        << ranks << " ranks");
        CheckFinite({.dtype = dtype,
                     .dim = dim,
                     .stripe = 4096,
                     .ranks = ranks,
                     .tokens = 40'000,
                     .blocks = {{64, {128, 30'000}}, {20, {128, 30'064}}, {300, {5000, 39'000}}}},
                    300 + dim + ranks);
        if (HasFatalFailure()) return;
      }
    }
    CheckFinite({.dtype = dtype, .dim = 32, .stripe = 1024, .tokens = 6000, .blocks = blocks}, 310);
    if (HasFatalFailure()) return;
  }
}

TEST_F(PrefillScoreCudaTest, BlocksMayHaveNoQueriesNoMiddleOrNoOwnKeys) {
  for (const DType dtype : {DType::kFloat32, DType::kBFloat16, DType::kFloat8E4M3}) {
    CheckFinite({.dtype = dtype,
                 .dim = 64,
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
    if (HasFatalFailure()) return;
    // A rank without any key of the hull.
    CheckFinite(
        {.dtype = dtype, .dim = 64, .ranks = 3, .tokens = 1000, .blocks = {{64, {70, 120}}}}, 401);
    if (HasFatalFailure()) return;
    // From position 0: the halo before it was never written.
    CheckFinite({.dtype = dtype,
                 .dim = 64,
                 .halo = 3,
                 .proximity = 3,
                 .tokens = 640,
                 .blocks = {{64, {0, 640}}, {64, {1, 639}}}},
                402);
    if (HasFatalFailure()) return;
  }
}

TEST_F(PrefillScoreCudaTest, EqualKeysScoreZero) {
  for (const DType dtype : {DType::kFloat32, DType::kBFloat16, DType::kFloat8E4M3}) {
    for (const int64_t dim : {16, 128, 200, 208}) {
      Case c = {.dtype = dtype, .dim = dim, .ranks = 2, .blocks = SomeBlocks()};
      if (!c.fits()) continue;
      Inputs inputs(c, 500);
      for (int64_t p = 1; p < c.tokens; ++p) {
        std::copy_n(inputs.keys.begin(), dim, inputs.keys.begin() + p * dim);
      }
      Outputs actual;
      Check(c, inputs, &actual);
      if (HasFatalFailure()) return;
      for (size_t b = 0; b < c.blocks.size(); ++b) {
        for (int64_t p = c.blocks[b].middle.begin; p < c.blocks[b].middle.end; ++p) {
          ASSERT_EQ(actual.scores[b][p], 0.0f) << "block " << b << ", position " << p;
        }
      }
    }
  }
}

TEST_F(PrefillScoreCudaTest, NanAndInfinityEqualReference) {
  for (int trial = 0; trial < 40; ++trial) {
    Random random(600 + trial);
    const int32_t proximity = static_cast<int32_t>(random.Integer(0, 2));
    const DType dtype = random.OneOf({DType::kFloat32, DType::kBFloat16, DType::kFloat8E4M3});
    const Case c = {.dtype = dtype,
                    .dim = random.OneOf<int64_t>({16, 64, 128, 192}),
                    .ranks = random.OneOf({1, 2}),
                    .halo = 2,
                    .proximity = proximity,
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
    std::fill_n(inputs.keys.begin() + 100 * c.dim, 5 * c.dim, kNan);
    Outputs actual;
    Check(c, inputs, &actual);
    if (HasFatalFailure()) return;
    EXPECT_TRUE(std::isnan(actual.scores[0][102]));
  }
}

// The bits of a block do not depend on the ranks, on the other blocks, or on the hull.
TEST_F(PrefillScoreCudaTest, BitsDependOnNothingElse) {
  for (const DType dtype : {DType::kFloat32, DType::kBFloat16, DType::kFloat8E4M3}) {
    for (const int64_t dim : {64, 128, 320}) {
      SCOPED_TRACE(testing::Message() << std::string(DTypeName(dtype)) << ", dim " << dim);
      const Case together = {.dtype = dtype,
                             .dim = dim,
                             .tokens = 900,
                             .blocks = {{130, {16, 500}}, {130, {16, 630}}, {130, {37, 760}}}};
      const Inputs inputs(together, 800);
      Outputs expected;
      Run(together, inputs, &expected);
      for (const int ranks : {1, 2, 3}) {
        Case c = together;
        c.ranks = ranks;
        Outputs actual;
        Run(c, inputs, &actual);
        if (HasFatalFailure()) return;
        ExpectSameBits(actual.maxima, expected.maxima);
        for (size_t b = 0; b < c.blocks.size(); ++b) {
          ExpectSameBits(actual.scores[b], expected.scores[b]);
        }
      }
      for (size_t b = 0; b < together.blocks.size(); ++b) {
        Case c = together;
        c.stripe = 128;
        c.blocks = {together.blocks[b]};
        Inputs alone = inputs;
        alone.queries.erase(alone.queries.begin(),
                            alone.queries.begin() + (together.first_query(b) - kGap) * dim);
        alone.queries.resize(c.rows() * dim);
        Outputs actual;
        Run(c, alone, &actual);
        if (HasFatalFailure()) return;
        const Range middle = c.blocks[0].middle;
        const auto part = [&](const std::vector<float>& scores) {
          return std::vector<float>(scores.begin() + middle.begin, scores.begin() + middle.end);
        };
        ExpectSameBits(part(actual.scores[0]), part(expected.scores[b]));
      }
    }
  }
}

TEST_F(PrefillScoreCudaTest, RefusesWhatItCannotScore) {
  PrefillScoreArgs args;
  args.geometry = {64, 1, 0};
  args.dim = 64;
  args.halo = 1;
  args.hull = {0, 100};
  const auto expect_refused = [](const PrefillScoreArgs& refused) {
    const absl::Status status = PrefillMaxima(refused, nullptr, nullptr);
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << status;
  };
  EXPECT_TRUE(PrefillMaxima(args, nullptr, nullptr).ok());  // no blocks
  PrefillScoreArgs wrong = args;
  wrong.dim = 12;
  expect_refused(wrong);
  wrong = args;
  wrong.score_offset = 8;
  expect_refused(wrong);
  wrong = args;
  wrong.dtype = DType::kFloat16;
  expect_refused(wrong);
  wrong = args;
  wrong.hull = {5, 5};
  expect_refused(wrong);
  wrong = args;
  wrong.geometry.rank = 1;
  expect_refused(wrong);
  for (const PrefillScoresOut& out :
       {PrefillScoresOut{nullptr, 100, 2, nullptr}, PrefillScoresOut{nullptr, 99, 1, nullptr}}) {
    const absl::Status status = PrefillScores(args, nullptr, out, nullptr);
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << status;
  }
}

}  // namespace
}  // namespace longspan::cuda
