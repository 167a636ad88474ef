#include <algorithm>
#include <limits>
#include <set>
#include <utility>
#include <vector>

#include "gtest/gtest.h"
#include "kernels/cuda/digit_select.h"
#include "tests/kernels/cuda_testing.h"
#include "tests/kernels/gathered_candidates.h"
#include "tests/kernels/kernel_testing.h"

namespace longspan::cuda {
namespace {

void ExpectOk(const absl::Status& status) { EXPECT_TRUE(status.ok()) << status; }

constexpr int64_t kGuard = 64;

// What one rank works with, all of it poisoned first.
struct RankMemory {
  Buffer candidates, brackets, sums, last_sums, winners, selected, counts;
  DigitSelectArgs args;

  RankMemory(const Gathered& all, int rank)
      : candidates(Upload(CandidatesOf(all, rank))),
        brackets(Poisoned(all.rows * static_cast<int64_t>(sizeof(DigitBracket)))),
        sums(Poisoned((all.rows * DigitSums(0, all.num_ranks) + kGuard) * 4)),
        last_sums(Poisoned((all.rows * DigitSums(kDigits - 1, all.num_ranks) + kGuard) * 4)),
        winners(Poisoned((all.rows * all.top_k + kGuard) * 4)),
        selected(Poisoned((all.rows * all.top_k + kGuard) * 8)),
        counts(Poisoned((all.rows + kGuard) * 4)),
        args{.candidates = candidates.as<Candidate>(),
             .rank = rank,
             .num_ranks = all.num_ranks,
             .rows = all.rows,
             .top_k = all.top_k,
             .brackets = brackets.as<DigitBracket>(),
             .sums = sums.as<uint32_t>(),
             .last_sums = last_sums.as<uint32_t>(),
             .winners = winners.as<uint32_t>(),
             .selected = selected.as<Candidate>(),
             .counts = counts.as<int32_t>()} {}

  static std::vector<Candidate> CandidatesOf(const Gathered& all, int rank) {
    const auto begin = all.words.begin() + rank * all.rows * all.top_k;
    return {begin, begin + all.rows * all.top_k};
  }
};

class DigitSelectCudaTest : public CudaTest {
 protected:
  // As an all-reduce would.
  template <typename Of>
  static void SumOverRanks(const std::vector<RankMemory>& ranks, int64_t count, const Of& of) {
    std::vector<uint32_t> sums(count);
    for (const RankMemory& rank : ranks) {
      const auto own = Download<uint32_t>(of(rank.args), count + kGuard);
      for (int64_t i = 0; i < count; ++i) sums[i] += own[i];
      EXPECT_EQ(std::count(own.end() - kGuard, own.end(), ~0u), kGuard);
    }
    for (const RankMemory& rank : ranks) {
      ExpectOk(Copy(of(rank.args), sums.data(), count * 4, nullptr));
    }
    ExpectOk(Synchronize(nullptr));
  }

  // All ranks on one GPU, in turn.
  void Check(Gathered all) {
    const int64_t rows = all.rows, top_k = all.top_k;
    SCOPED_TRACE(testing::Message()
                 << all.num_ranks << " ranks, " << rows << " rows, top " << top_k);
    std::vector<RankMemory> ranks;
    for (int r = 0; r < all.num_ranks; ++r) ranks.emplace_back(all, r);
    for (int digit = 0; digit < kDigits; ++digit) {
      for (const RankMemory& rank : ranks) ExpectOk(CountDigit(rank.args, digit, nullptr));
      SumOverRanks(ranks, rows * DigitSums(digit, all.num_ranks),
                   [&](const DigitSelectArgs& args) { return SumsOf(args, digit); });
    }
    for (const RankMemory& rank : ranks) ExpectOk(PlaceWinners(rank.args, nullptr));
    SumOverRanks(ranks, rows * top_k, [](const DigitSelectArgs& args) { return args.winners; });
    // All ranks have the same now, but each must have counted alike.
    for (const RankMemory& rank : ranks) {
      if (rank.args.rank > 3 && rank.args.rank + 1 < all.num_ranks) continue;
      ExpectOk(OrderWinners(rank.args, nullptr));
      ExpectSelected(all, rank);
      if (HasFatalFailure()) return;
    }
  }

  void ExpectSelected(Gathered& all, const RankMemory& rank) {
    const auto out = Download<Candidate>(rank.args.selected, all.rows * all.top_k + kGuard);
    const auto counts = Download<int32_t>(rank.args.counts, all.rows + kGuard);
    for (int64_t row = 0; row < all.rows; ++row) {
      const std::vector<Candidate> expected = all.Expected(row);
      ASSERT_EQ(counts[row], static_cast<int64_t>(expected.size()))
          << "row " << row << ", rank " << rank.args.rank;
      for (int64_t i = 0; i < counts[row]; ++i) {
        ASSERT_EQ(out[row * all.top_k + i], expected[i] & 0xffffffff)
            << "row " << row << ", " << i << " of " << counts[row] << ", rank " << rank.args.rank;
      }
    }
    EXPECT_EQ(std::count(out.end() - kGuard, out.end(), ~Candidate{0}), kGuard);
    EXPECT_EQ(std::count(counts.end() - kGuard, counts.end(), -1), kGuard);
  }

  // Every rank has all that it may have.
  void CheckFull(Random* random, int num_ranks, int64_t rows, int64_t top_k, const Score& score) {
    Gathered all = {num_ranks, rows, top_k};
    for (int64_t row = 0; row < rows; ++row) {
      all.Fill(random, row, std::vector<int64_t>(num_ranks, top_k), random->Integer(0, 1000), 50,
               score);
    }
    Check(std::move(all));
  }
};

TEST_F(DigitSelectCudaTest, EqualsExpectationOnRandomRows) {
  Random random(1);
  for (const int num_ranks : {1, 2, 3, 8, 13}) {
    for (const int64_t top_k : {1, 2, 33, 1000, 2048, 2049, 5000}) {
      Gathered all = {num_ranks, 3, top_k};
      for (int64_t row = 0; row < 3; ++row) {
        std::vector<int64_t> sizes(num_ranks);
        for (int64_t& size : sizes) size = random.OneOf({top_k, random.Integer(0, top_k)});
        all.Fill(&random, row, sizes, random.Integer(0, 1000), 50, [&] { return random.Real(); });
      }
      Check(std::move(all));
      if (HasFatalFailure()) return;
    }
  }
}

// Positions decide, however many ranks have ties.
TEST_F(DigitSelectCudaTest, EqualScores) {
  Random random(2);
  const std::vector<std::vector<float>> choices = {
      {1.0f}, {kNan}, {-kInf}, {-0.0f, 0.0f}, {1.0f, std::nextafter(1.0f, 2.0f)}, {kNan, -kInf}};
  for (const auto& choice : choices) {
    const Score score = [&] {
      return choice[random.Integer(0, static_cast<int64_t>(choice.size()) - 1)];
    };
    for (const int num_ranks : {1, 2, 7}) {
      for (const int64_t top_k : {1, 50, 2048}) {
        CheckFull(&random, num_ranks, 2, top_k, score);
        if (HasFatalFailure()) return;
      }
    }
  }
}

TEST_F(DigitSelectCudaTest, ScoresOfAllMagnitudes) {
  Random random(3);
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
      [&] { return 1 + static_cast<float>(random.Integer(0, 300)) * 0x1p-23f; }};
  for (const Score& score : scores) {
    for (const int num_ranks : {2, 8}) {
      for (const int64_t top_k : {3, 300, 2048}) {
        CheckFull(&random, num_ranks, 1, top_k, score);
        if (HasFatalFailure()) return;
      }
    }
  }
}

TEST_F(DigitSelectCudaTest, FewerThanTopK) {
  Random random(4);
  for (const int num_ranks : {1, 3, 8}) {
    for (const int64_t top_k : {8, 2048}) {
      // None, one, just as many, one more; one row by many ranks, one by the last.
      for (const int64_t count : {int64_t{0}, int64_t{1}, top_k - 1, top_k, top_k + 1}) {
        Gathered all = {num_ranks, 2, top_k};
        std::vector<int64_t> spread(num_ranks), alone(num_ranks);
        for (int64_t i = 0; i < count; ++i) {
          int64_t* size = &spread[random.Integer(0, num_ranks - 1)];
          if (*size < top_k) ++*size;
        }
        alone.back() = std::min(count, top_k);
        all.Fill(&random, 0, spread, 5, 3, [&] { return random.Real(); });
        all.Fill(&random, 1, alone, 0, 1, [&] { return random.OneOf({kNan, 1.0f}); });
        Check(std::move(all));
        if (HasFatalFailure()) return;
      }
    }
  }
}

// More than a gather takes.
TEST_F(DigitSelectCudaTest, ManyRanks) {
  Random random(5);
  CheckFull(&random, 1500, 2, 5, [&] { return random.Real(); });
  CheckFull(&random, 1500, 1, 40, [] { return 1.0f; });
}

TEST_F(DigitSelectCudaTest, ManyRows) {
  Random random(6);
  CheckFull(&random, 3, 1000, 20, [&] { return random.Real(); });
}

// Tiles that are put in order and merged: one too many, an odd number of them, an even one.
TEST_F(DigitSelectCudaTest, LargeTopK) {
  Random random(7);
  for (const int64_t top_k : {2048, 2049, 4096, 4097, 6144, 8192, 100'000}) {
    CheckFull(&random, 2, 2, top_k, [&] { return random.Real(); });
    if (HasFatalFailure()) return;
  }
}

// Words that differ in one digit alone, at its ends, and the least and greatest that there are.
TEST_F(DigitSelectCudaTest, WordsAtTheEndsOfBins) {
  Random random(8);
  for (int trial = 0; trial < 20; ++trial) {
    Gathered all = {3, 1, 30};
    const Candidate base = trial % 2 == 0 ? random.engine()() : random.OneOf({1, -90}) + 0ull;
    std::set<uint32_t> taken;  // no position twice
    for (int rank = 0; rank < 3; ++rank) {
      std::vector<Candidate> words;
      while (words.size() < 30) {
        const int shift = DigitShift(static_cast<int>(random.Integer(0, kDigits - 1)));
        const Candidate step = Candidate{1} << shift;
        const Candidate word = base +
                               random.OneOf({step - 1, step, step + 1, -step, Candidate{0}}) +
                               static_cast<Candidate>(random.Integer(0, 80));
        const auto low = static_cast<uint32_t>(word);
        if (low != 0 && taken.insert(low).second) words.push_back(word);
      }
      std::sort(words.begin(), words.end(),
                [](Candidate a, Candidate b) { return PositionOf(a) < PositionOf(b); });
      std::copy(words.begin(), words.end(), all.List(rank, 0));
    }
    Check(std::move(all));
    if (HasFatalFailure()) return;
  }
}

TEST_F(DigitSelectCudaTest, LastPositions) {
  Random random(9);
  for (const float value : {1.0f, kNan}) {
    Gathered all = {2, 1, 100};
    all.Fill(&random, 0, {100, 100}, kMaxPosition + 1 - 200, 1, [&] { return value; });
    Check(std::move(all));
  }
}

TEST(DigitSelectArgsTest, RefusesOtherSizes) {
  for (const int64_t top_k : {int64_t{0}, kMaxDigitSelected + 1}) {
    const DigitSelectArgs args = {.num_ranks = 2, .rows = 1, .top_k = top_k};
    EXPECT_TRUE(absl::IsInvalidArgument(CountDigit(args, 0, nullptr)));
    EXPECT_TRUE(absl::IsInvalidArgument(PlaceWinners(args, nullptr)));
    EXPECT_TRUE(absl::IsInvalidArgument(OrderWinners(args, nullptr)));
  }
  for (const DigitSelectArgs& args : {DigitSelectArgs{.num_ranks = 0, .rows = 1, .top_k = 1},
                                      {.rank = 2, .num_ranks = 2, .rows = 1, .top_k = 1},
                                      {.num_ranks = 5, .rows = 1, .top_k = kMaxDigitSelected}}) {
    EXPECT_TRUE(absl::IsInvalidArgument(CountDigit(args, 0, nullptr)));
  }
  for (const int digit : {-1, kDigits}) {
    EXPECT_TRUE(absl::IsInvalidArgument(
        CountDigit({.num_ranks = 2, .rows = 1, .top_k = 1}, digit, nullptr)));
  }
  ExpectOk(CountDigit({.num_ranks = 2, .rows = 0, .top_k = 1}, 0, nullptr));
}

}  // namespace
}  // namespace longspan::cuda
