#include <algorithm>
#include <bit>
#include <cstdint>
#include <functional>
#include <limits>
#include <optional>
#include <utility>
#include <vector>

#include "gtest/gtest.h"
#include "kernels/cuda/select.h"
#include "kernels/select.h"
#include "sharding/attention_ranges.h"
#include "sharding/sequence_layout.h"
#include "tests/kernels/cuda_testing.h"
#include "tests/kernels/kernel_testing.h"

namespace longspan::cuda {
namespace {

// Candidates of the k first of a row, ascending by position.
std::vector<Candidate> InOrder(std::vector<Candidate> candidates) {
  std::erase(candidates, Candidate{0});
  std::sort(candidates.begin(), candidates.end(),
            [](Candidate a, Candidate b) { return PositionOf(a) < PositionOf(b); });
  return candidates;
}

std::vector<Candidate> ExpectedTopK(const float* scores, int64_t count, int64_t k) {
  longspan::TopK top(k);
  top.Add(scores, count, 0);
  std::vector<Candidate> candidates(k);
  top.Take(candidates.data());
  return InOrder(std::move(candidates));
}

// What a selection wrote, row by row.
std::vector<std::vector<Candidate>> Rows(const Buffer& candidates, const Buffer& counts, int rows,
                                         int64_t k) {
  const auto all = Download<Candidate>(candidates.data(), rows * k);
  const auto sizes = Download<int32_t>(counts.data(), rows);
  std::vector<std::vector<Candidate>> out;
  for (int row = 0; row < rows; ++row) {
    EXPECT_GE(sizes[row], 0);
    EXPECT_LE(sizes[row], k);
    const auto valid = all.begin() + row * k + std::min<int64_t>(sizes[row], k);
    out.emplace_back(all.begin() + row * k, valid);
    EXPECT_EQ(std::count(valid, all.begin() + (row + 1) * k, Candidate{0}),
              all.begin() + (row + 1) * k - valid)
        << "row " << row;
  }
  return out;
}

class SelectCudaTest : public CudaTest {
 protected:
  // Selects from [rows, count] scores and compares with the CPU.
  void CheckTopK(const std::vector<float>& scores, int rows, int64_t k,
                 const SelectWorkspace& workspace) {
    const auto count = static_cast<int64_t>(scores.size()) / rows;
    const Buffer device_scores = Upload(scores);
    const Buffer candidates = Poisoned(rows * k * 8);
    const Buffer counts = Poisoned(rows * 4);
    TopKArgs args;
    args.scores = device_scores.as<float>();
    args.row_stride = args.count = count;
    args.rows = rows;
    args.top_k = k;
    args.selected = {candidates.as<Candidate>(), counts.as<int32_t>()};
    const absl::Status status = TopK(args, workspace, nullptr);
    ASSERT_TRUE(status.ok()) << status;
    const auto actual = Rows(candidates, counts, rows, k);
    for (int row = 0; row < rows; ++row) {
      ASSERT_EQ(actual[row], ExpectedTopK(scores.data() + row * count, count, k)) << "row " << row;
    }
  }

  SelectWorkspace Workspace(int rows, int64_t keys, int max_blocks = 0) {
    absl::StatusOr<SelectWorkspace> workspace = SelectWorkspace::Create(rows, keys, max_blocks);
    EXPECT_TRUE(workspace.ok()) << workspace.status();
    return *std::move(workspace);
  }
};

TEST_F(SelectCudaTest, EqualsCpuOnRandomRows) {
  Random random(1);
  const SelectWorkspace all = Workspace(5, 200'000);
  const SelectWorkspace few = Workspace(5, 200'000, 3);
  const SelectWorkspace one = Workspace(5, 200'000, 1);  // too little shared memory for the bits
  for (int trial = 0; trial < 60; ++trial) {
    const int rows = static_cast<int>(random.Integer(1, 5));
    const int64_t count = random.OneOf<int64_t>({1, 2, 31, 1000, 1024, 5000, 40'000, 200'000});
    const int64_t k = random.OneOf<int64_t>({1, 2, 33, 256, 2048, 5000});
    SCOPED_TRACE(testing::Message() << rows << " rows of " << count << ", k " << k);
    CheckTopK(random.Reals(rows * count), rows, k,
              *random.OneOf<const SelectWorkspace*>({&all, &few, &one}));
    if (HasFatalFailure()) return;
  }
}

TEST_F(SelectCudaTest, TiesGoToTheFirstPosition) {
  Random random(2);
  const SelectWorkspace workspace = Workspace(3, 100'000);
  const std::vector<std::vector<float>> values = {
      {1.0f},
      {-0.0f, 0.0f},
      {kNan},
      {-kInf},
      {kNan, -kInf, kInf, 1.0f},
      {-0.0f, 0.0f, 1.0f, -1.0f, 2.0f, kInf, -kInf, kNan, 1e-40f, -1e-40f,
       std::nextafter(1.0f, 2.0f), std::numeric_limits<float>::max()}};
  for (const std::vector<float>& choice : values) {
    for (const int64_t count : {5, 3000, 100'000}) {
      std::vector<float> scores(3 * count);
      for (float& score : scores) {
        score = choice[random.Integer(0, static_cast<int64_t>(choice.size()) - 1)];
      }
      for (const int64_t k : {1, 100, 2048}) {
        SCOPED_TRACE(testing::Message() << choice.size() << " values, " << count << ", k " << k);
        CheckTopK(scores, 3, k, workspace);
        if (HasFatalFailure()) return;
      }
    }
  }
}

// Nearly equal scores: the last digit decides. Clustered: one bin of the first digit has them all.
TEST_F(SelectCudaTest, ClusteredScores) {
  Random random(3);
  const SelectWorkspace workspace = Workspace(1, 300'000);
  std::vector<float> scores(300'000);
  for (float& score : scores) {
    score = std::bit_cast<float>(std::bit_cast<uint32_t>(100.0f) +
                                 static_cast<uint32_t>(random.Integer(0, 5000)));
  }
  CheckTopK(scores, 1, 2048, workspace);
}

// The kernel guesses from samples which scores to list. Whatever it guesses, what it selects is
// right.
TEST_F(SelectCudaTest, ScoresThatMisleadSamples) {
  Random random(4);
  const auto bits = [&](uint32_t low, uint32_t high) {
    return std::bit_cast<float>(static_cast<uint32_t>(random.Integer(low, high)));
  };
  using Score = std::function<float(int64_t i, int64_t count)>;
  const std::vector<std::pair<const char*, Score>> kinds = {
      {"ascending", [](int64_t i, int64_t) { return static_cast<float>(i); }},
      {"descending", [](int64_t i, int64_t) { return static_cast<float>(-i); }},
      {"few outliers",
       [&](int64_t, int64_t) {
         return random.Integer(0, 4999) == 0 ? random.Real(1e30f, 2e30f) : random.Real();
       }},
      {"infinite outliers",
       [&](int64_t, int64_t) { return random.Integer(0, 999) == 0 ? kInf : random.Real(); }},
      {"mostly NaN",
       [&](int64_t, int64_t) { return random.Integer(0, 299) == 0 ? random.Real() : kNan; }},
      {"mostly -inf",
       [&](int64_t, int64_t) { return random.Integer(0, 29) == 0 ? random.Real() : -kInf; }},
      {"few values", [&](int64_t, int64_t) { return 100.0f + 1e-4f * random.Integer(0, 5); }},
      {"all bits", [&](int64_t, int64_t) { return bits(0, 0xffffffff); }},
      {"positive, of all exponents", [&](int64_t, int64_t) { return bits(0, 0x7f800000); }},
      {"subnormal",
       [&](int64_t, int64_t) {
         return random.Integer(0, 1) == 0 ? bits(0, 0x7fffff) : bits(0x80000000, 0x807fffff);
       }},
      {"cluster at one place",
       [&](int64_t i, int64_t count) {
         return i > count / 3 && i < count / 3 + 2500 ? random.Real(5, 6) : random.Real();
       }},
      {"cluster too large for the lists",
       [&](int64_t i, int64_t count) {
         return i > count / 3 && i < count / 3 + 9500 ? random.Real(5, 6) : random.Real();
       }},
      {"high scores that few samples hit",
       [&](int64_t i, int64_t) { return i % 4 == 0 ? random.Real(-3, -2) : random.Real(); }},
      {"samples that are too high",
       [&](int64_t i, int64_t) { return i % 64 == 0 ? random.Real(5, 6) : random.Real(); }}};
  const SelectWorkspace all = Workspace(17, 262'144);
  const SelectWorkspace few = Workspace(17, 262'144, 3);
  for (const auto& [name, score] : kinds) {
    for (const auto& [rows, count] :
         std::vector<std::pair<int, int64_t>>{{1, 262'144}, {3, 60'001}, {17, 20'000}}) {
      std::vector<float> scores;
      for (int row = 0; row < rows; ++row) {
        for (int64_t i = 0; i < count; ++i) scores.push_back(score(i, count));
      }
      for (const int64_t k : {1, 2048, 3072, 3073}) {
        SCOPED_TRACE(testing::Message() << name << ", " << rows << " x " << count << ", k " << k);
        CheckTopK(scores, rows, k, random.OneOf<bool>({false, true}) ? all : few);
        if (HasFatalFailure()) return;
      }
    }
  }
}

TEST_F(SelectCudaTest, NoRowsAreNoWork) {
  TopKArgs args;
  args.count = 100;
  args.top_k = 1;
  const absl::Status status = TopK(args, Workspace(1, 100), nullptr);
  EXPECT_TRUE(status.ok()) << status;
}

// Rows and launches with teams of other sizes, short and long ways, one after the other in one
// workspace.
TEST_F(SelectCudaTest, LaunchesShareAWorkspace) {
  Random random(6);
  const SelectWorkspace workspace = Workspace(40, 262'144);
  for (int trial = 0; trial < 40; ++trial) {
    const int rows = random.OneOf<int>({1, 2, 16, 40});
    const int64_t count = random.OneOf<int64_t>({700, 8190, 30'000, 262'144 / rows});
    const int64_t k = random.OneOf<int64_t>({1, 300, 2048, 4000});
    std::vector<float> scores = random.Reals(rows * count);
    for (int row = 0; row < rows; ++row) {
      if (random.Integer(0, 2) == 0) std::fill_n(scores.begin() + row * count, count, 1.0f);
    }
    SCOPED_TRACE(testing::Message() << rows << " rows of " << count << ", k " << k);
    CheckTopK(scores, rows, k, workspace);
    if (HasFatalFailure()) return;
  }
}

// ---- Scored keys ----

struct Case {
  DType dtype = DType::kBFloat16;
  int64_t dim = 128;
  int32_t stripe = 64;
  int ranks = 1;
  int32_t halo = 0, proximity = 0;
  int64_t initial = 16, local = 100, k = 50;
  std::vector<int64_t> positions = {1000};
  int max_blocks = 0;
  int64_t key_limit = 3;   // of numbers of keys: with more of them fewer scores are the same
  Range cluster = {0, 0};  // of positions whose keys are the best that there are
};

// Whole numbers, whose products add up exactly in any order: ties abound where they are small.
std::vector<float> WholeNumbers(Random* random, int64_t count, int64_t limit = 3) {
  std::vector<float> values(count);
  for (float& value : values) value = static_cast<float>(random->Integer(-limit, limit));
  return values;
}

std::vector<float> Keys(const Case& c, int64_t tokens, const float* query, Random* random) {
  std::vector<float> keys = WholeNumbers(random, tokens * c.dim, c.key_limit);
  for (int64_t p = c.cluster.begin; p < std::min(c.cluster.end, tokens); ++p) {
    for (int64_t d = 0; d < c.dim; ++d) {
      const float sign = query[d] < 0 ? -1 : 1;
      keys[p * c.dim + d] = sign * static_cast<float>(c.key_limit - (p + d) % 2);
    }
  }
  return keys;
}

// The pages of one rank of one sequence, with some bytes before the layer's score keys.
struct Pages {
  static constexpr int64_t kOffset = 512;

  Pages(const Case& c, int rank, const std::vector<float>& keys) {
    const SequenceLayout layout = {c.stripe, c.ranks};
    const auto tokens = static_cast<int64_t>(keys.size()) / c.dim;
    for (int64_t page = 0; page < layout.NumPages(rank, tokens); ++page) {
      const Range stripe = layout.StripeOfPage(rank, page);
      std::vector<float> rows((c.stripe + 2 * c.halo) * c.dim, kNan);
      for (int64_t p = std::max<int64_t>(0, stripe.begin - c.halo);
           p < std::min(tokens, stripe.end + c.halo); ++p) {
        std::copy_n(keys.begin() + p * c.dim, c.dim,
                    rows.begin() + (p - stripe.begin + c.halo) * c.dim);
      }
      const Stored stored(rows, c.dtype);
      std::vector<std::byte> bytes(kOffset + rows.size() * SizeOf(c.dtype));
      std::copy_n(static_cast<const std::byte*>(stored.data()), bytes.size() - kOffset,
                  bytes.begin() + kOffset);
      buffers.push_back(Upload(bytes));
      pointers.push_back(buffers.back().data());
    }
    table = Upload(pointers);
  }

  std::vector<Buffer> buffers;
  std::vector<const std::byte*> pointers;
  Buffer table;
};

std::vector<Candidate> ExpectedSelection(const Case& c, int rank, int64_t position,
                                         const std::vector<float>& query,
                                         const std::vector<float>& keys) {
  const SequenceLayout layout = {c.stripe, c.ranks};
  const Range middle = {c.initial, std::max(c.initial, position - c.local)};
  std::vector<float> scores(middle.size());
  for (int64_t m = middle.begin; m < middle.end; ++m) {
    float sum = 0;
    for (int64_t d = 0; d < c.dim; ++d) sum += query[d] * keys[m * c.dim + d];
    scores[m - middle.begin] = sum;
  }
  std::vector<float> spread(scores.size());
  Proximity(scores.data(), middle.size(), c.proximity, 0, middle.size(), spread.data());
  longspan::TopK top(c.k);
  for (int64_t m = middle.begin; m < middle.end; ++m) {
    if (layout.owner(m) == rank) top.Add(&spread[m - middle.begin], 1, m);
  }
  std::vector<Candidate> candidates(c.k);
  top.Take(candidates.data());
  return InOrder(std::move(candidates));
}

DecodeSelectArgs ArgsOf(const Case& c, int rank, const Buffer& sequences, const Buffer& queries,
                        const Buffer& candidates, const Buffer& counts) {
  DecodeSelectArgs args;
  args.sequences = sequences.as<DecodeRow>();
  args.queries = queries.as<float>();
  args.dim = c.dim;
  args.dtype = c.dtype;
  args.geometry = {c.stripe, c.ranks, rank};
  args.halo = c.halo;
  args.score_offset = Pages::kOffset;
  args.initial_tokens = c.initial;
  args.local_tokens = c.local;
  args.proximity = c.proximity;
  args.top_k = c.k;
  args.selected = {candidates.as<Candidate>(), counts.as<int32_t>()};
  return args;
}

class DecodeSelectCudaTest : public SelectCudaTest {
 protected:
  // In a workspace of its own if none is given.
  void Check(const Case& c, uint64_t seed, const SelectWorkspace* shared = nullptr) {
    Random random(seed);
    const auto rows = static_cast<int>(c.positions.size());
    const int64_t tokens = *std::max_element(c.positions.begin(), c.positions.end()) + 1;
    const std::vector<float> queries = WholeNumbers(&random, rows * c.dim);
    std::vector<std::vector<float>> keys;
    for (int row = 0; row < rows; ++row) {
      keys.push_back(Keys(c, c.positions[row] + 1, &queries[row * c.dim], &random));
    }
    const Buffer device_queries = Upload(queries);
    for (int rank = 0; rank < c.ranks; ++rank) {
      SCOPED_TRACE(testing::Message() << "rank " << rank << " of " << c.ranks);
      std::vector<Pages> pages;
      std::vector<DecodeRow> sequences;
      for (int row = 0; row < rows; ++row) {
        pages.emplace_back(c, rank, keys[row]);
        sequences.push_back({pages.back().table.as<const std::byte*>(), c.positions[row]});
      }
      const Buffer device_sequences = Upload(sequences);
      const Buffer candidates = Poisoned(rows * c.k * 8);
      const Buffer counts = Poisoned(rows * 4);
      DecodeSelectArgs args = ArgsOf(c, rank, device_sequences, device_queries, candidates, counts);
      args.rows = rows;
      args.max_tokens = SequenceLayout{c.stripe, c.ranks}.NumPages(rank, tokens) * c.stripe;
      std::optional<SelectWorkspace> own;
      if (shared == nullptr) {
        own = Workspace(rows, MaxKeys(args.max_tokens, args.geometry, args.halo), c.max_blocks);
      }
      const absl::Status status = DecodeSelect(args, own ? *own : *shared, nullptr);
      ASSERT_TRUE(status.ok()) << status;
      const auto actual = Rows(candidates, counts, rows, c.k);
      for (int row = 0; row < rows; ++row) {
        const std::vector<float> query(queries.begin() + row * c.dim,
                                       queries.begin() + (row + 1) * c.dim);
        ASSERT_EQ(actual[row], ExpectedSelection(c, rank, c.positions[row], query, keys[row]))
            << "row " << row;
      }
    }
  }
};

TEST_F(DecodeSelectCudaTest, EqualsExpectationOverDtypesAndDims) {
  uint64_t seed = 10;
  for (const DType dtype : {DType::kFloat32, DType::kBFloat16, DType::kFloat8E4M3}) {
    for (const int64_t dim : {8, 16, 24, 32, 48, 64, 96, 128, 256, 512, 1024}) {
      if (dim * SizeOf(dtype) % 16 != 0) continue;
      SCOPED_TRACE(testing::Message() << DTypeName(dtype) << ", dim " << dim);
      Check({.dtype = dtype, .dim = dim, .halo = 1, .proximity = 1, .positions = {1000, 350}},
            ++seed);
      if (HasFatalFailure()) return;
    }
  }
}

TEST_F(DecodeSelectCudaTest, EqualsExpectationOverRanksAndProximity) {
  uint64_t seed = 100;
  for (const int ranks : {1, 2, 3}) {
    for (const int32_t proximity : {0, 1, 2, 3, 7, 30, 64}) {
      for (const int32_t extra : {0, 5}) {
        const int32_t halo = std::min(64, proximity + extra);
        SCOPED_TRACE(testing::Message() << "proximity " << proximity << ", halo " << halo);
        Check({.dim = 16,
               .ranks = ranks,
               .halo = halo,
               .proximity = proximity,
               .positions = {3000, 5, 117, 118, 777}},
              ++seed);
        if (HasFatalFailure()) return;
      }
    }
  }
}

TEST_F(DecodeSelectCudaTest, LongRows) {
  Check({.dim = 16,
         .stripe = 512,
         .ranks = 1,
         .halo = 1,
         .proximity = 1,
         .initial = 128,
         .local = 4096,
         .k = 2048,
         .positions = {300'000}},
        1);
  Check({.dim = 16,
         .stripe = 512,
         .ranks = 2,
         .halo = 512,
         .proximity = 512,
         .initial = 128,
         .local = 4096,
         .k = 2048,
         .positions = {200'000, 100'000}},
        2);
}

// Mostly the short way, with some ties.
TEST_F(DecodeSelectCudaTest, FewScoresAreTheSame) {
  uint64_t seed = 200;
  for (const DType dtype : {DType::kFloat32, DType::kBFloat16}) {
    for (const int32_t proximity : {0, 1, 3}) {
      for (const int64_t k : {1, 300, 2048}) {
        SCOPED_TRACE(testing::Message()
                     << DTypeName(dtype) << ", proximity " << proximity << ", k " << k);
        Check({.dtype = dtype,
               .dim = 16,
               .stripe = 512,
               .ranks = proximity == 3 ? 2 : 1,
               .halo = proximity,
               .proximity = proximity,
               .initial = 128,
               .local = 4096,
               .k = k,
               .positions = {270'000, 40'000},
               .key_limit = 100},
              ++seed);
        if (HasFatalFailure()) return;
      }
    }
  }
}

// Lists longer than others, than what is read of all of them, and than they may be.
TEST_F(DecodeSelectCudaTest, ClustersOfGoodKeys) {
  uint64_t seed = 300;
  for (const int64_t size : {40, 100, 500, 700, 5000}) {
    for (const int64_t key_limit : {3, 100}) {
      SCOPED_TRACE(testing::Message() << size << " keys of at most " << key_limit);
      Check({.dim = 16,
             .stripe = 512,
             .halo = 1,
             .proximity = 1,
             .initial = 128,
             .local = 4096,
             .k = 2048,
             .positions = {270'000, 150'000},
             .key_limit = key_limit,
             .cluster = {50'000, 50'000 + size}},
            ++seed);
      if (HasFatalFailure()) return;
    }
  }
}

// As above, and given scores between.
TEST_F(DecodeSelectCudaTest, LaunchesShareAWorkspace) {
  Random random(8);
  const SelectWorkspace workspace = Workspace(40, 262'144);
  for (int trial = 0; trial < 40; ++trial) {
    const int rows = random.OneOf<int>({1, 2, 3, 16, 40});
    const int64_t k = random.OneOf<int64_t>({1, 300, 2048, 3072, 3073});
    SCOPED_TRACE(testing::Message() << "trial " << trial << ": " << rows << " rows, k " << k);
    if (random.Integer(0, 2) == 0) {
      CheckTopK(random.Reals(rows * 5000), rows, k, workspace);
    } else {
      const int64_t position = random.OneOf<int64_t>({5, 700, 6000, 30'000, 120'000 / rows});
      Check({.dim = 16,
             .halo = 1,
             .proximity = 1,
             .k = k,
             .positions = std::vector<int64_t>(rows, position),
             .key_limit = random.OneOf<int64_t>({0, 3, 100})},
            1000 + trial, &workspace);
    }
    if (HasFatalFailure()) return;
  }
}

// Blocks with several rows, and slices of several pieces.
TEST_F(DecodeSelectCudaTest, FewBlocks) {
  uint64_t seed = 50;
  for (const int max_blocks : {1, 2, 3}) {
    SCOPED_TRACE(testing::Message() << max_blocks << " blocks");
    Check({.dim = 16,
           .ranks = 2,
           .halo = 3,
           .proximity = 3,
           .positions = {3000, 5, 117, 118, 777},
           .max_blocks = max_blocks},
          ++seed);
    Check({.dim = 16,
           .stripe = 512,
           .halo = 40,
           .proximity = 40,
           .initial = 128,
           .local = 4096,
           .k = 2048,
           .positions = {60'000, 45'000},
           .max_blocks = max_blocks},
          ++seed);
    Check({.dim = 16,
           .stripe = 512,
           .halo = 1,
           .proximity = 1,
           .initial = 128,
           .local = 4096,
           .k = 2048,
           .positions = {200'000},
           .max_blocks = max_blocks},
          ++seed);
    if (HasFatalFailure()) return;
  }
}

TEST_F(DecodeSelectCudaTest, RefusesRowsThatAreNoMultipleOf16Bytes) {
  DecodeSelectArgs args;
  args.rows = 1;
  args.dim = 12;
  args.top_k = 1;
  const absl::Status status = DecodeSelect(args, Workspace(1, 100), nullptr);
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << status;
}

// A captured launch reads the positions of its replay.
TEST_F(DecodeSelectCudaTest, ReplaysWithOtherPositions) {
  const Case c = {.dim = 16, .halo = 1, .proximity = 1, .positions = {2000}};
  Random random(5);
  const std::vector<float> query = WholeNumbers(&random, c.dim);
  const std::vector<float> keys = WholeNumbers(&random, 2001 * c.dim);
  const Pages pages(c, 0, keys);
  const Buffer sequence = Poisoned(sizeof(DecodeRow));
  const Buffer device_query = Upload(query);
  const Buffer candidates = Poisoned(c.k * 8);
  const Buffer counts = Poisoned(4);
  DecodeSelectArgs args = ArgsOf(c, /*rank=*/0, sequence, device_query, candidates, counts);
  args.rows = 1;
  args.max_tokens = 2048;
  const SelectWorkspace workspace = Workspace(1, 4096);

  cudaStream_t stream;
  ASSERT_EQ(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking), cudaSuccess);
  ASSERT_EQ(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal), cudaSuccess);
  const absl::Status status = DecodeSelect(args, workspace, stream);
  ASSERT_TRUE(status.ok()) << status;
  cudaGraph_t graph;
  ASSERT_EQ(cudaStreamEndCapture(stream, &graph), cudaSuccess);
  cudaGraphExec_t replay;
  ASSERT_EQ(cudaGraphInstantiate(&replay, graph, 0), cudaSuccess);
  for (const int64_t position : {2000, 900, 1500, 10}) {
    const DecodeRow row = {pages.table.as<const std::byte*>(), position};
    ASSERT_TRUE(Copy(sequence.data(), &row, sizeof(row), stream).ok());
    ASSERT_EQ(cudaGraphLaunch(replay, stream), cudaSuccess);
    ASSERT_TRUE(Synchronize(stream).ok());
    EXPECT_EQ(Rows(candidates, counts, 1, c.k)[0], ExpectedSelection(c, 0, position, query, keys))
        << position;
  }
  cudaGraphExecDestroy(replay);
  cudaGraphDestroy(graph);
  cudaStreamDestroy(stream);
}

}  // namespace
}  // namespace longspan::cuda
