#include "kernels/score.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "gtest/gtest.h"
#include "kernels/base/lane_gemm.h"
#include "kernels/reference/reference.h"
#include "sharding/sequence_layout.h"
#include "tests/kernels/kernel_testing.h"

namespace longspan {
namespace {

// For scores of numbers in [-1, 1]: a float sum of 200 such products is off by some 1e-6.
constexpr double kTolerance = 1e-5;

// Queries and keys as the kernels want them, and as the reference does.
struct Problem {
  Problem(std::vector<float> query_rows, const std::vector<float>& key_rows, int64_t d, DType dtype)
      : queries(std::move(query_rows)),
        dim(d),
        num_queries(static_cast<int64_t>(queries.size()) / d),
        num_keys(static_cast<int64_t>(key_rows.size()) / d),
        stored(key_rows, dtype),
        panels(NumPanels(num_queries) * d * kPanelLanes, kNan) {
    PackQueries(queries.data(), num_queries, dim, dim, panels.data());
  }

  int64_t lanes() const { return NumPanels(num_queries) * kPanelLanes; }
  ScoreKeys keys() const { return stored.Keys(0, num_keys, dim); }

  // [lanes]
  std::vector<float> Maxima(Range keys_of, std::vector<float> maxima) const {
    ScoreMaxima({panels.data(), NumPanels(num_queries), dim,
                 stored.Keys(keys_of.begin, keys_of.size(), dim), maxima.data()});
    return maxima;
  }
  std::vector<float> Maxima() const {
    return Maxima({0, num_keys}, std::vector<float>(lanes(), -kInf));
  }
  // [keys] with the first num_queries of `maxima`; unused lanes get +inf.
  std::vector<float> Block(Range keys_of, std::vector<float> maxima) const {
    maxima.resize(num_queries);
    maxima.resize(lanes(), kInf);
    std::vector<float> scores(keys_of.size(), -12345.0f);
    ScoreBlock({panels.data(), num_queries, dim, stored.Keys(keys_of.begin, keys_of.size(), dim),
                maxima.data(), scores.data()});
    return scores;
  }
  std::vector<float> Block(const std::vector<float>& maxima) const {
    return Block({0, num_keys}, maxima);
  }
  // [keys] of query 0
  std::vector<float> Token(Range keys_of) const {
    std::vector<float> scores(keys_of.size(), -12345.0f);
    ScoreToken(queries.data(), dim, stored.Keys(keys_of.begin, keys_of.size(), dim), scores.data());
    return scores;
  }

  void ExpectAllAsReference() const {
    std::vector<double> maxima(num_queries, -kInf);
    reference::ScoreMaxima(queries.data(), num_queries, dim, keys(), maxima.data());
    std::vector<float> actual = Maxima();
    actual.resize(num_queries);
    ExpectClose(actual, maxima, kTolerance);

    std::vector<double> scores(num_keys);
    reference::ScoreBlock(queries.data(), num_queries, dim, keys(), actual.data(), scores.data());
    ExpectClose(Block(actual), scores, kTolerance);

    reference::ScoreToken(queries.data(), dim, keys(), scores.data());
    ExpectClose(Token({0, num_keys}), scores, kTolerance);
  }

  std::vector<float> queries;  // [num_queries, dim]
  int64_t dim;
  int64_t num_queries;
  int64_t num_keys;
  Stored stored;
  std::vector<float> panels;
};

DType AnyDType(Random* random) {
  return random->OneOf({DType::kFloat32, DType::kBFloat16, DType::kFloat8E4M3});
}

Problem RandomProblem(Random* random, int64_t num_queries, int64_t num_keys, int64_t dim) {
  return Problem(random->Reals(num_queries * dim), random->Reals(num_keys * dim), dim,
                 AnyDType(random));
}

TEST(ScoreTest, EqualsReferenceAtRandomShapes) {
  Random random(1);
  for (int trial = 0; trial < 300; ++trial) {
    const int64_t queries = random.OneOf<int64_t>({1, 2, 7, 63, 64, 65, 127, 128, 130});
    const int64_t keys = random.OneOf<int64_t>({0, 1, 2, 5, 6, 7, 95, 96, 97, 200, 301});
    const int64_t dim = random.OneOf<int64_t>({1, 2, 3, 7, 8, 9, 15, 16, 17, 31, 32, 33, 64, 100});
    SCOPED_TRACE(testing::Message() << queries << " queries, " << keys << " keys, dim " << dim);
    RandomProblem(&random, queries, keys, dim).ExpectAllAsReference();
    if (HasFatalFailure()) return;
  }
}

TEST(ScoreTest, PackedQueriesLieInLanesAndTheRestIsZero) {
  Random random(2);
  for (const int64_t count : {0, 1, 63, 64, 65, 200}) {
    const int64_t dim = 5, stride = 9;
    const std::vector<float> rows = random.Reals(count * stride);
    std::vector<float> panels(NumPanels(count) * dim * kPanelLanes, kNan);
    PackQueries(rows.data(), count, dim, stride, panels.data());
    for (int64_t c = 0; c < NumPanels(count) * kPanelLanes; ++c) {
      for (int64_t d = 0; d < dim; ++d) {
        const float packed = panels[(c / kPanelLanes * dim + d) * kPanelLanes + c % kPanelLanes];
        EXPECT_EQ(packed, c < count ? rows[c * stride + d] : 0.0f);
      }
    }
  }
}

TEST(ScoreTest, NoKeysChangeNoMaximum) {
  Random random(3);
  const Problem problem = RandomProblem(&random, 65, 0, 9);
  const std::vector<float> before = random.Reals(problem.lanes());
  ExpectSameBits(problem.Maxima({0, 0}, before), before);
}

TEST(ScoreTest, EqualKeysScoreAlikeWhereverTheyLie) {
  Random random(4);
  const int64_t dim = 33, keys = 301;
  const std::vector<float> key = random.Reals(dim);
  std::vector<float> rows;
  for (int64_t m = 0; m < keys; ++m) rows.insert(rows.end(), key.begin(), key.end());
  for (const DType dtype : {DType::kFloat32, DType::kBFloat16, DType::kFloat8E4M3}) {
    const Problem problem(random.Reals(65 * dim), rows, dim, dtype);
    const std::vector<float> block = problem.Block(problem.Maxima());
    ExpectSameBits(block, std::vector<float>(keys, 0.0f));  // every query at its maximum
    const std::vector<float> token = problem.Token({0, keys});
    ExpectSameBits(token, std::vector<float>(keys, token[0]));
  }
}

// The order of clustered scores must be that of the exact ones wherever those differ by more than
// rounding; and a maximum must be the score of some key to the last bit.
TEST(ScoreTest, ClusteredScoresKeepTheirMaximum) {
  Random random(5);
  const int64_t dim = 32, keys = 500, queries = 65;
  const std::vector<float> centre = random.Reals(dim);
  std::vector<float> rows;
  for (int64_t m = 0; m < keys; ++m) {
    for (const float c : centre) rows.push_back(c + random.Real(-1e-6f, 1e-6f));
  }
  const Problem problem(random.Reals(queries * dim), rows, dim, DType::kFloat32);
  problem.ExpectAllAsReference();
  const std::vector<float> scores = problem.Block(problem.Maxima());
  EXPECT_EQ(*std::max_element(scores.begin(), scores.end()), 0.0f);
  for (const float score : scores) EXPECT_LE(score, 0.0f);
}

TEST(ScoreTest, ZerosOfEitherSignAreEqual) {
  const int64_t dim = 9;
  std::vector<float> rows(4 * dim, 0.0f);
  std::fill_n(rows.begin() + dim, 2 * dim, -0.0f);
  const Problem problem(std::vector<float>(2 * dim, -1.0f), rows, dim, DType::kFloat32);
  for (const float score : problem.Block(problem.Maxima())) EXPECT_EQ(score, 0.0f);
  for (const float score : problem.Token({0, 4})) EXPECT_EQ(score, 0.0f);
}

// Keys and queries in which some numbers are NaN or infinite.
TEST(ScoreTest, NanAndInfinityEqualReference) {
  Random random(6);
  for (int trial = 0; trial < 200; ++trial) {
    const int64_t dim = random.OneOf<int64_t>({1, 8, 17, 32});
    const int64_t num_queries = random.OneOf<int64_t>({1, 3, 64, 66});
    std::vector<float> keys = random.Reals(random.OneOf<int64_t>({1, 7, 97, 130}) * dim);
    std::vector<float> queries = random.Reals(num_queries * dim);
    const auto spoil = [&](std::vector<float>* values, int64_t count) {
      for (int64_t i = 0; i < count; ++i) {
        (*values)[random.Integer(0, static_cast<int64_t>(values->size()) - 1)] =
            random.OneOf({kNan, kInf, -kInf});
      }
    };
    spoil(&keys, random.Integer(0, 4));
    if (trial % 2 == 0) spoil(&queries, random.Integer(0, 3));
    // Not fp8_e4m3: its infinities become 448, and sums too large for the tolerance.
    const DType dtype = random.OneOf({DType::kFloat32, DType::kBFloat16});
    Problem(queries, keys, dim, dtype).ExpectAllAsReference();
    if (HasFatalFailure()) return;
  }
}

TEST(ScoreTest, NanKeyScoresNanAndWinsNoMaximum) {
  Random random(7);
  const int64_t dim = 16, keys = 100;
  for (const int64_t queries : {1, 63, 64, 65}) {
    std::vector<float> rows = random.Reals(keys * dim);
    for (const int64_t bad : {0, 50, 99}) rows[bad * dim + bad % dim] = kNan;
    const Problem problem(random.Reals(queries * dim), rows, dim, DType::kFloat32);
    const std::vector<float> maxima = problem.Maxima();
    for (int64_t c = 0; c < queries; ++c) EXPECT_EQ(KindOf(maxima[c]), Kind::kFinite);
    const std::vector<float> scores = problem.Block(maxima);
    for (int64_t m = 0; m < keys; ++m) {
      EXPECT_EQ(std::isnan(scores[m]), m == 0 || m == 50 || m == 99) << m;
    }
  }
}

TEST(ScoreTest, NanQueryIsPassedOver) {
  Random random(8);
  const int64_t dim = 16, keys = 40;
  const std::vector<float> rows = random.Reals(keys * dim);
  std::vector<float> queries = random.Reals(5 * dim);
  std::fill_n(queries.begin() + 2 * dim, dim, kNan);
  std::vector<float> others = queries;
  others.erase(others.begin() + 2 * dim, others.begin() + 3 * dim);
  const Problem with(queries, rows, dim, DType::kFloat32);
  const Problem without(others, rows, dim, DType::kFloat32);
  EXPECT_EQ(with.Maxima()[2], -kInf);
  ExpectSameBits(with.Block(with.Maxima()), without.Block(without.Maxima()));
}

TEST(ScoreTest, MinusInfinityIsNotTakenForNan) {
  const int64_t dim = 8;
  std::vector<float> rows(3 * dim, 1.0f);
  std::fill_n(rows.begin() + dim, dim, -kInf);
  const Problem problem(std::vector<float>(2 * dim, 1.0f), rows, dim, DType::kFloat32);
  const std::vector<float> scores = problem.Block(problem.Maxima());
  ExpectSameBits(scores, {0.0f, -kInf, 0.0f});
}

TEST(ScoreTest, QueryDoesNotDependOnItsLaneOrOnOthers) {
  Random random(9);
  for (const int64_t dim : {5, 32, 100}) {
    const int64_t queries = 130, keys = 203;
    const Problem together = RandomProblem(&random, queries, keys, dim);
    const std::vector<float> maxima = together.Maxima();
    for (const int64_t c : {0, 1, 8, 15, 16, 63, 64, 65, 127, 128, 129}) {
      std::vector<float> query(together.queries.begin() + c * dim,
                               together.queries.begin() + (c + 1) * dim);
      Problem alone = together;
      alone.queries = query;
      alone.num_queries = 1;
      alone.panels.assign(dim * kPanelLanes, 0.0f);
      PackQueries(query.data(), 1, dim, dim, alone.panels.data());
      ExpectSameBits({alone.Maxima()[0]}, {maxima[c]});
      // Of a block whose other queries are far below their maxima only this one counts.
      std::vector<float> only(queries, 1e30f);
      only[c] = maxima[c];
      ExpectSameBits(together.Block(only), alone.Block({maxima[c]}));
    }
  }
}

TEST(ScoreTest, KeyDoesNotDependOnWhereTheCallBegins) {
  Random random(10);
  for (int trial = 0; trial < 50; ++trial) {
    const int64_t keys = 300;
    const Problem problem =
        RandomProblem(&random, random.Integer(1, 70), keys, random.Integer(1, 70));
    const std::vector<float> maxima = problem.Maxima();
    const std::vector<float> block = problem.Block(maxima);
    const std::vector<float> token = problem.Token({0, keys});
    Range part;
    part.begin = random.Integer(0, keys);
    part.end = random.Integer(part.begin, keys);
    const auto slice = [&](const std::vector<float>& all) {
      return std::vector<float>(all.begin() + part.begin, all.begin() + part.end);
    };
    ExpectSameBits(problem.Block(part, maxima), slice(block));
    ExpectSameBits(problem.Token(part), slice(token));
    std::vector<float> in_parts(problem.lanes(), -kInf);
    for (const Range& run : {Range{part.end, keys}, Range{0, part.begin}, part}) {
      in_parts = problem.Maxima(run, in_parts);
    }
    ExpectSameBits(in_parts, maxima);
  }
}

}  // namespace
}  // namespace longspan
