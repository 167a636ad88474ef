#include <algorithm>
#include <cmath>
#include <functional>
#include <limits>
#include <vector>

#include "gtest/gtest.h"
#include "kernels/base/convert.h"
#include "kernels/cuda/merge.h"
#include "tests/kernels/cuda_testing.h"
#include "tests/kernels/gathered_candidates.h"
#include "tests/kernels/kernel_testing.h"

namespace longspan::cuda {
namespace {

void ExpectOk(const absl::Status& status) { EXPECT_TRUE(status.ok()) << status; }

// ---- Candidates ----

class MergeCandidatesCudaTest : public CudaTest {
 protected:
  void Check(Gathered gathered) {
    constexpr int64_t kGuard = 64;
    constexpr Candidate kUnwritten = ~Candidate{0};
    const auto [num_ranks, rows, top_k, words] = gathered;
    SCOPED_TRACE(testing::Message() << num_ranks << " ranks, " << rows << " rows, top " << top_k);
    const Buffer candidates = Upload(words);
    const Buffer selected = Poisoned((rows * top_k + kGuard) * 8);
    const Buffer counts = Poisoned((rows + kGuard) * 4);
    const int64_t workspace_bytes = MergeCandidatesWorkspaceBytes(num_ranks, rows, top_k);
    const Buffer workspace = Poisoned(workspace_bytes + kGuard);
    ExpectOk(MergeCandidates({.candidates = candidates.as<Candidate>(),
                              .num_ranks = num_ranks,
                              .rows = rows,
                              .top_k = top_k,
                              .selected = selected.as<Candidate>(),
                              .counts = counts.as<int32_t>(),
                              .workspace = workspace_bytes > 0 ? workspace.data() : nullptr},
                             nullptr));
    const auto out = Download<Candidate>(selected.data(), rows * top_k + kGuard);
    const auto sizes = Download<int32_t>(counts.data(), rows + kGuard);
    for (int64_t row = 0; row < rows; ++row) {
      const std::vector<Candidate> expected = gathered.Expected(row);
      ASSERT_EQ(sizes[row], static_cast<int64_t>(expected.size())) << "row " << row;
      const auto begin = out.begin() + row * top_k;
      for (int64_t i = 0; i < sizes[row]; ++i) {
        ASSERT_EQ(begin[i], expected[i]) << "row " << row << ", " << i << " of " << sizes[row];
      }
      ASSERT_EQ(std::count(begin + sizes[row], begin + top_k, kUnwritten), top_k - sizes[row])
          << "row " << row;
    }
    EXPECT_EQ(std::count(out.end() - kGuard, out.end(), kUnwritten), kGuard);
    EXPECT_EQ(std::count(sizes.end() - kGuard, sizes.end(), -1), kGuard);
    const auto guard = Download<uint8_t>(workspace.data() + workspace_bytes, kGuard);
    EXPECT_EQ(std::count(guard.begin(), guard.end(), 0xff), kGuard);
    // The input is only read.
    EXPECT_EQ(Download<Candidate>(candidates.data(), static_cast<int64_t>(words.size())), words);
  }

  // Every rank has all that it may have.
  void CheckFull(Random* random, int num_ranks, int64_t rows, int64_t top_k, const Score& score) {
    Gathered gathered = {num_ranks, rows, top_k};
    for (int64_t row = 0; row < rows; ++row) {
      gathered.Fill(random, row, std::vector<int64_t>(num_ranks, top_k), random->Integer(0, 1000),
                    50, score);
    }
    Check(std::move(gathered));
  }
};

TEST_F(MergeCandidatesCudaTest, EqualsExpectationOnRandomRows) {
  Random random(1);
  for (const int num_ranks : {1, 2, 3, 4, 5, 8, 13, 64}) {
    for (const int64_t top_k : {1, 2, 31, 32, 33, 100, 1000, 2048, 5000}) {
      Gathered gathered = {num_ranks, 3, top_k};
      for (int64_t row = 0; row < 3; ++row) {
        std::vector<int64_t> sizes(num_ranks);
        for (int64_t& size : sizes) size = random.OneOf({top_k, random.Integer(0, top_k)});
        gathered.Fill(&random, row, sizes, random.Integer(0, 1000), 50,
                      [&] { return random.Real(); });
      }
      Check(std::move(gathered));
      if (HasFatalFailure()) return;
    }
  }
}

TEST_F(MergeCandidatesCudaTest, ShapesOfDecode) {
  Random random(2);
  for (const int num_ranks : {2, 4, 8}) {
    for (const int64_t rows : {1, 2, 16}) {
      // What ranks propose is the upper end of a distribution.
      CheckFull(&random, num_ranks, rows, 2048,
                [&] { return 2 + std::abs(random.Real()) * random.Real(0, 1); });
      if (HasFatalFailure()) return;
    }
  }
}

TEST_F(MergeCandidatesCudaTest, ManyRows) {
  Random random(3);
  CheckFull(&random, 4, 1000, 64, [&] { return random.Real(); });
}

// Positions decide.
TEST_F(MergeCandidatesCudaTest, EqualScores) {
  Random random(4);
  const std::vector<std::vector<float>> choices = {
      {1.0f}, {kNan}, {-kInf}, {-0.0f, 0.0f}, {1.0f, std::nextafter(1.0f, 2.0f)}};
  for (const auto& choice : choices) {
    const Score score = [&] {
      return choice[random.Integer(0, static_cast<int64_t>(choice.size()) - 1)];
    };
    for (const int num_ranks : {1, 2, 7, 8}) {
      for (const int64_t top_k : {1, 50, 2048}) {
        CheckFull(&random, num_ranks, 2, top_k, score);
        if (HasFatalFailure()) return;
      }
    }
  }
}

// The whole range of scores, one far from the others, and very close ones.
TEST_F(MergeCandidatesCudaTest, ScoresOfAllMagnitudes) {
  Random random(5);
  const float most = std::numeric_limits<float>::max();
  int called = 0;
  const std::vector<Score> scores = {
      [&] {
        return random.OneOf({-kInf, kInf, kNan, 0.0f, -0.0f, most, -most, 1e-40f, -1e-40f});
      },
      [&] {
        return std::exp(random.Real(-80, 80)) * random.OneOf({-1.0f, 1.0f});
      },
      [&] { return called++ == 0 ? most : random.Real(1, 1.001f); },
      [&] { return called++ % 100 == 0 ? kNan : -random.Real(1, 1.0001f); },
      [&] { return 1 + static_cast<float>(random.Integer(0, 300)) * 0x1p-23f; }};
  for (const Score& score : scores) {
    called = 0;
    for (const int num_ranks : {2, 8, 20}) {
      for (const int64_t top_k : {3, 300, 2048}) {
        CheckFull(&random, num_ranks, 1, top_k, score);
        if (HasFatalFailure()) return;
      }
    }
  }
}

TEST_F(MergeCandidatesCudaTest, FewerThanTopK) {
  Random random(6);
  for (const int num_ranks : {1, 3, 8}) {
    for (const int64_t top_k : {8, 2048, 5000}) {
      // None, one, just as many, one more.
      for (const int64_t count : {int64_t{0}, int64_t{1}, top_k - 1, top_k, top_k + 1}) {
        Gathered gathered = {num_ranks, 2, top_k};
        for (int64_t row = 0; row < 2; ++row) {
          std::vector<int64_t> sizes(num_ranks);
          for (int64_t i = 0; i < count; ++i) {
            int64_t* size = &sizes[random.Integer(0, num_ranks - 1)];
            if (*size < top_k) ++*size;
          }
          gathered.Fill(&random, row, sizes, 5, 3, [&] { return random.Real(); });
        }
        Check(std::move(gathered));
        if (HasFatalFailure()) return;
      }
    }
  }
}

TEST_F(MergeCandidatesCudaTest, ManyRanks) {
  Random random(7);
  for (const int num_ranks : {100, 1000, 1023, 1024}) {
    for (const int64_t top_k : {1, 3, 64, 200}) {
      CheckFull(&random, num_ranks, 2, top_k, [&] { return random.Real(); });
      if (HasFatalFailure()) return;
    }
  }
  // All that there are lie on a few of them.
  Gathered gathered = {1024, 1, 100};
  std::vector<int64_t> sizes(1024);
  sizes[1] = sizes[512] = sizes[1023] = 100;
  sizes[7] = 5;
  gathered.Fill(&random, 0, sizes, 0, 1, [&] { return random.Real(); });
  Check(std::move(gathered));
}

TEST_F(MergeCandidatesCudaTest, LargeTopK) {
  Random random(8);
  for (const int num_ranks : {1, 2, 5}) {
    for (const int64_t top_k : {4096, 4097, 8192, 20'000, 100'000, 1'000'000}) {
      if (num_ranks * top_k > 2'000'000) continue;
      CheckFull(&random, num_ranks, 1, top_k, [&] { return random.Real(); });
      if (HasFatalFailure()) return;
    }
  }
}

TEST_F(MergeCandidatesCudaTest, LastPositions) {
  Random random(9);
  for (const float value : {1.0f, kNan}) {
    for (const int num_ranks : {1, 2, 8}) {
      Gathered gathered = {num_ranks, 1, 100};
      const int64_t count = int64_t{num_ranks} * 100;
      gathered.Fill(&random, 0, std::vector<int64_t>(num_ranks, 100), kMaxPosition + 1 - count, 1,
                    [&] { return value; });
      Check(std::move(gathered));
      if (HasFatalFailure()) return;
    }
  }
  Gathered gathered = {2, 1, 2};
  gathered.List(0, 0)[0] = PackCandidate(1, 0);
  gathered.List(0, 0)[1] = PackCandidate(1, kMaxPosition);
  gathered.List(1, 0)[0] = PackCandidate(2, 1);
  gathered.List(1, 0)[1] = PackCandidate(0.5f, kMaxPosition - 1);
  Check(std::move(gathered));
}

TEST_F(MergeCandidatesCudaTest, RefusesOtherSizes) {
  for (const int num_ranks : {0, 1025}) {
    EXPECT_TRUE(absl::IsInvalidArgument(
        MergeCandidates({.num_ranks = num_ranks, .rows = 1, .top_k = 1}, nullptr)));
  }
  for (const int64_t top_k : {int64_t{0}, int64_t{1} << 31}) {
    EXPECT_TRUE(absl::IsInvalidArgument(
        MergeCandidates({.num_ranks = 2, .rows = 1, .top_k = top_k}, nullptr)));
  }
  ExpectOk(MergeCandidates({.num_ranks = 2, .rows = 0, .top_k = 1}, nullptr));
}

// ---- Partials ----

struct Partials {
  int parts = 1;
  int64_t rows = 1, heads = 1, head_dim = 1;
  std::vector<float> outputs = {};  // [parts, rows, heads, head_dim]
  std::vector<float> lse = {};      // [parts, rows, heads]

  int64_t all_heads() const { return rows * heads; }
  int64_t size() const { return all_heads() * head_dim; }
};

Partials MakePartials(Random* random, int parts, int64_t rows, int64_t heads, int64_t head_dim) {
  Partials partials = {parts, rows, heads, head_dim};
  partials.outputs = random->Reals(parts * partials.size());
  partials.lse = random->Reals(parts * partials.all_heads(), -5, 5);
  return partials;
}

struct Merged {
  std::vector<double> output, lse;
};

Merged Expected(const Partials& partials) {
  Merged merged;
  for (int64_t row = 0; row < partials.all_heads(); ++row) {
    double total = 0;
    std::vector<double> sums(partials.head_dim);
    for (int p = 0; p < partials.parts; ++p) {
      const double weight = std::exp(double{partials.lse[p * partials.all_heads() + row]});
      if (weight == 0) continue;
      total += weight;
      for (int64_t d = 0; d < partials.head_dim; ++d) {
        sums[d] += weight * partials.outputs[p * partials.size() + row * partials.head_dim + d];
      }
    }
    for (const double sum : sums) merged.output.push_back(total == 0 ? 0 : sum / total);
    merged.lse.push_back(std::log(total));
  }
  return merged;
}

class MergePartialsCudaTest : public CudaTest {
 protected:
  // Each part: outputs, then lse, then `gap` numbers that nobody reads; all of it `shift` numbers
  // beyond an aligned address.
  void Check(const Partials& partials, DType dtype, int64_t gap = 0, int64_t shift = 0,
             bool wants_lse = true) {
    constexpr int64_t kGuard = 32;
    const auto [parts, rows, heads, head_dim, outputs, lse] = partials;
    SCOPED_TRACE(testing::Message() << parts << " parts, " << rows << " x " << heads << " x "
                                    << head_dim << ' ' << DTypeName(dtype) << ", gap " << gap);
    const int64_t size = partials.size(), all_heads = partials.all_heads();
    const int64_t stride = size + all_heads + gap;
    std::vector<float> in(shift + parts * stride, kNan);
    for (int p = 0; p < parts; ++p) {
      const auto part = in.begin() + shift + p * stride;
      std::copy_n(outputs.begin() + p * size, size, part);
      std::copy_n(lse.begin() + p * all_heads, all_heads, part + size);
    }
    const Buffer device_in = Upload(in);
    const Buffer output = Poisoned((shift + size + kGuard) * SizeOf(dtype));
    const Buffer output_lse = Poisoned((all_heads + kGuard) * 4);
    ExpectOk(MergePartials({.outputs = device_in.as<float>() + shift,
                            .lse = device_in.as<float>() + shift + size,
                            .part_stride = stride,
                            .parts = parts,
                            .rows = rows,
                            .heads = heads,
                            .head_dim = head_dim,
                            .output = output.data() + shift * SizeOf(dtype),
                            .output_dtype = dtype,
                            .output_lse = wants_lse ? output_lse.as<float>() : nullptr},
                           nullptr));
    const auto bytes = Download<std::byte>(output.data(), output.bytes());
    std::vector<float> actual(shift + size + kGuard);
    ConvertToFloat(bytes.data(), dtype, static_cast<int64_t>(actual.size()), actual.data());
    const auto actual_lse = Download<float>(output_lse.data(), all_heads + kGuard);
    const Merged expected = Expected(partials);
    const absl::Span<const float> written(actual);
    ExpectClose(written.subspan(shift, size), expected.output,
                dtype == DType::kFloat32 ? 1e-5 : 1e-5 + 0x1p-8);
    for (int64_t i = 0; i < shift; ++i) EXPECT_TRUE(std::isnan(actual[i]));
    for (int64_t i = shift + size; i < shift + size + kGuard; ++i) {
      EXPECT_TRUE(std::isnan(actual[i]));
    }
    if (wants_lse) {
      ExpectClose(absl::Span<const float>(actual_lse).subspan(0, all_heads), expected.lse, 1e-5);
    }
    for (int64_t i = wants_lse ? all_heads : 0; i < all_heads + kGuard; ++i) {
      EXPECT_TRUE(std::isnan(actual_lse[i]));
    }
  }
};

TEST_F(MergePartialsCudaTest, EqualsExpectation) {
  Random random(20);
  for (const int parts : {1, 2, 3, 8, 31, 32, 33, 70}) {
    for (const int64_t head_dim : {1, 3, 16, 64, 128, 130, 256, 300}) {
      for (const DType dtype : {DType::kFloat32, DType::kBFloat16}) {
        const int64_t rows = random.Integer(1, 5), heads = random.OneOf<int64_t>({1, 4, 7, 32});
        Check(MakePartials(&random, parts, rows, heads, head_dim), dtype, random.Integer(0, 4),
              random.OneOf<int64_t>({0, 0, 1}), random.Integer(0, 3) > 0);
        if (HasFatalFailure()) return;
      }
    }
  }
}

// Whatever an empty part has as its output is passed over.
TEST_F(MergePartialsCudaTest, EmptyParts) {
  Random random(21);
  for (const int parts : {1, 2, 8, 40}) {
    for (const int64_t head_dim : {5, 128}) {
      Partials partials = MakePartials(&random, parts, 3, 8, head_dim);
      const int64_t all_heads = partials.all_heads();
      for (int p = 0; p < parts; ++p) {
        for (int64_t row = 0; row < all_heads; ++row) {
          if (row > 2 && random.Integer(0, 2) > 0) continue;
          if (row == 2 && p == parts - 1) continue;  // the last part alone has something
          partials.lse[p * all_heads + row] = -kInf;
          std::fill_n(partials.outputs.begin() + p * partials.size() + row * head_dim, head_dim,
                      random.OneOf({0.0f, kNan, kInf}));
        }
      }
      Check(partials, DType::kFloat32);
      Check(partials, DType::kBFloat16);
      if (HasFatalFailure()) return;
    }
  }
}

TEST_F(MergePartialsCudaTest, NanStaysInItsRow) {
  Random random(22);
  for (const int parts : {1, 3, 40}) {
    for (const int64_t head_dim : {5, 128}) {
      Partials partials = MakePartials(&random, parts, 2, 4, head_dim);
      const int64_t all_heads = partials.all_heads();
      partials.lse[2] = kNan;  // of the first part
      for (int p = 0; p < parts; ++p) partials.lse[p * all_heads + 3] = p == 0 ? kNan : -kInf;
      partials.outputs[(parts - 1) * partials.size() + 5 * head_dim + 1] = kNan;
      Check(partials, DType::kFloat32);
      if (HasFatalFailure()) return;
    }
  }
}

// Only differences go through the exponential.
TEST_F(MergePartialsCudaTest, LargeLse) {
  for (const float shift : {-30000.0f, 30000.0f}) {
    const Buffer outputs = Upload(std::vector<float>{1, 2, 3, 4, 9, 9});
    // As far apart as the outputs.
    const Buffer lse = Upload(std::vector<float>{shift, kNan, shift, kNan, shift - 1000});
    const Buffer output = Poisoned(2 * 4), output_lse = Poisoned(4);
    ExpectOk(MergePartials({.outputs = outputs.as<float>(),
                            .lse = lse.as<float>(),
                            .part_stride = 2,
                            .parts = 3,
                            .rows = 1,
                            .heads = 1,
                            .head_dim = 2,
                            .output = output.data(),
                            .output_lse = output_lse.as<float>()},
                           nullptr));
    EXPECT_EQ(Download<float>(output.data(), 2), (std::vector<float>{2, 3}));
    EXPECT_NEAR(Download<float>(output_lse.data(), 1)[0], shift + std::log(2.0f), 2e-3);
  }
}

TEST_F(MergePartialsCudaTest, RunsGiveTheSameBitsAndNoRowsDoNothing) {
  Random random(23);
  const Partials partials = MakePartials(&random, 8, 4, 32, 128);
  const Buffer outputs = Upload(partials.outputs);
  std::vector<float> lse(8 * partials.size());
  for (int p = 0; p < 8; ++p) {
    std::copy_n(partials.lse.begin() + p * partials.all_heads(), partials.all_heads(),
                lse.begin() + p * partials.size());
  }
  const Buffer device_lse = Upload(lse);
  std::vector<float> first;
  for (int run = 0; run < 5; ++run) {
    const Buffer output = Poisoned(partials.size() * 4);
    MergePartialsArgs args = {.outputs = outputs.as<float>(),
                              .lse = device_lse.as<float>(),
                              .part_stride = partials.size(),
                              .parts = 8,
                              .rows = 4,
                              .heads = 32,
                              .head_dim = 128,
                              .output = output.data()};
    ExpectOk(MergePartials(args, nullptr));
    const auto actual = Download<float>(output.data(), partials.size());
    if (run == 0) first = actual;
    ExpectSameBits(actual, first);
    args.rows = 0;
    ExpectOk(MergePartials(args, nullptr));
  }
}

}  // namespace
}  // namespace longspan::cuda
