#include "sharding/histogram_select.h"

#include <algorithm>
#include <cmath>
#include <functional>
#include <limits>
#include <random>
#include <set>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "absl/types/span.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace longspan {
namespace {

using ::testing::ElementsAre;

constexpr float kInf = std::numeric_limits<float>::infinity();
constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
constexpr int kMostRounds = 8;

using Ranks = std::vector<std::vector<Candidate>>;

struct Outcome {
  std::vector<int64_t> positions;
  int rounds = 0;         // histograms
  int64_t exchanged = 0;  // candidates
};

// What ranks do, one after the other.
Bracket FirstBracketOf(Ranks& ranks, int64_t k) {
  ScoreRange maxima = {-kInf, -kInf};
  for (std::vector<Candidate>& mine : ranks) {
    const ScoreRange range = RangeOf(absl::MakeSpan(mine), k, static_cast<int>(ranks.size()));
    maxima.negated_guess = std::max(maxima.negated_guess, range.negated_guess);
    maxima.best = std::max(maxima.best, range.best);
  }
  return FirstBracket(maxima);
}

Outcome SelectFrom(const Ranks& ranks, int64_t k, Bracket bracket) {
  Outcome outcome;
  for (; !bracket.settled && outcome.rounds < kMostRounds; ++outcome.rounds) {
    std::vector<uint32_t> counts(kHistogramBins);
    for (const std::vector<Candidate>& mine : ranks) CountBins(mine, bracket, counts.data());
    Narrow(counts, k, &bracket);
  }
  EXPECT_TRUE(bracket.settled);
  std::vector<Candidate> exchanged;
  for (const std::vector<Candidate>& mine : ranks) {
    std::copy_if(mine.begin(), mine.end(), std::back_inserter(exchanged),
                 [&](Candidate candidate) { return candidate >= bracket.low; });
  }
  outcome.exchanged = static_cast<int64_t>(exchanged.size());
  outcome.positions = MergeTopK(absl::MakeSpan(exchanged), k);
  return outcome;
}

std::vector<int64_t> SelectByGather(const Ranks& ranks, int64_t k) {
  std::vector<Candidate> all;
  for (const std::vector<Candidate>& mine : ranks) all.insert(all.end(), mine.begin(), mine.end());
  return MergeTopK(absl::MakeSpan(all), k);
}

// The k first of each rank, zeros behind them, in no order: what TopK::Take gives.
Ranks Propose(Ranks ranks, int64_t k, std::mt19937_64& random) {
  for (std::vector<Candidate>& mine : ranks) {
    std::sort(mine.begin(), mine.end(), std::greater<>());
    mine.resize(k, 0);
    std::shuffle(mine.begin(), mine.end(), random);
  }
  return ranks;
}

void ExpectEqual(const Outcome& outcome, const Ranks& ranks, int64_t k) {
  EXPECT_EQ(outcome.positions, SelectByGather(ranks, k)) << ranks.size() << " ranks, k " << k;
  EXPECT_LE(outcome.exchanged, k + kMostExcess);
}

Outcome ExpectEqual(Ranks ranks, int64_t k) {
  const Bracket first = FirstBracketOf(ranks, k);
  const Outcome outcome = SelectFrom(ranks, k, first);
  ExpectEqual(outcome, ranks, k);
  return outcome;
}

TEST(HistogramSelectTest, RangeOfARank) {
  const auto range = [](std::vector<Candidate> mine, int64_t k, int num_ranks) {
    const ScoreRange found = RangeOf(absl::MakeSpan(mine), k, num_ranks);
    return std::pair(found.negated_guess, found.best);
  };
  std::vector<Candidate> mine = {0};
  for (int i = 1; i <= 5; ++i) mine.push_back(PackCandidate(static_cast<float>(i), i));
  EXPECT_EQ(range(mine, 4, 2), std::pair(-4.0f, 5.0f));
  EXPECT_EQ(range(mine, 5, 2), std::pair(-3.0f, 5.0f));
  EXPECT_EQ(range(mine, 5, 100), std::pair(-5.0f, 5.0f));
  EXPECT_EQ(range(mine, 40, 2), std::pair(-1.0f, 5.0f));
  EXPECT_EQ(range({0, 0}, 2, 2), std::pair(-kInf, -kInf));
  EXPECT_EQ(range({PackCandidate(-kInf, 1), PackCandidate(3, 2)}, 4, 2), std::pair(-kInf, 3.0f));
  EXPECT_EQ(range({PackCandidate(kNan, 1), 0}, 4, 2), std::pair(-kInf, -kInf));
}

TEST(HistogramSelectTest, FirstBracketHasAllPositionsOfItsScores) {
  const Bracket bracket = FirstBracket({-4, 5});
  EXPECT_EQ(bracket.low, PackCandidate(4, kMaxPosition) - 1);
  EXPECT_EQ(bracket.high, PackCandidate(5, 0));
  const Bracket unknown = FirstBracket({-kInf, 5});
  EXPECT_EQ(unknown.low, PackCandidate(5, kMaxPosition) - 1);
  EXPECT_EQ(unknown.high, PackCandidate(5, 0));
}

// 2,048 integers, two in a bin.
TEST(HistogramSelectTest, BinsOfABracket) {
  const Bracket bracket = {.low = 5000, .high = 7047};
  std::vector<uint32_t> counts(kHistogramBins), expected(kHistogramBins);
  CountBins({7048, 7047, 7046, 7045, 0, 5000, 4999, ~Candidate{0}}, bracket, counts.data());
  expected[0] = 2;
  expected[1] = expected[1023] = 1;
  EXPECT_EQ(counts, expected);
}

TEST(HistogramSelectTest, NarrowsToTheBinOfTheKth) {
  std::vector<uint32_t> counts(kHistogramBins);
  counts[0] = 300;
  counts[7] = 1000;
  const auto narrowed = [&](int64_t k) {
    Bracket bracket = {.low = 5000, .high = 7047, .above = 10};
    Narrow(counts, k, &bracket);
    return std::tuple(bracket.low, bracket.high, bracket.above, bracket.settled);
  };
  EXPECT_EQ(narrowed(310), std::tuple(7046, 7047, 10, true));
  EXPECT_EQ(narrowed(311), std::tuple(7032, 7033, 310, false));
  EXPECT_EQ(narrowed(1310 - kMostExcess - 1), std::tuple(7032, 7033, 310, false));
  EXPECT_EQ(narrowed(1310 - kMostExcess), std::tuple(7032, 7033, 310, true));
  EXPECT_EQ(narrowed(1311), std::tuple(1, 4999, 1310, false));
}

TEST(HistogramSelectTest, FewerThanKInAllAreAllTaken) {
  Bracket bracket = {.low = 1, .high = 4999, .above = 1310};
  Narrow(std::vector<uint32_t>(kHistogramBins, 1), 4000, &bracket);
  EXPECT_TRUE(bracket.settled);
  EXPECT_EQ(bracket.low, 1);
}

using MakeScore = std::function<float(std::mt19937_64&)>;

float Normal(std::mt19937_64& random) { return std::normal_distribution<float>()(random); }

struct Scores {
  const char* name;
  MakeScore make;
};

const Scores kScores[] = {
    {"Normal", Normal},
    {"AllEqual", [](std::mt19937_64&) { return 1.5f; }},
    {"AllMinusInfinity", [](std::mt19937_64&) { return -kInf; }},
    {"AllInfinity", [](std::mt19937_64&) { return kInf; }},
    {"AllNaN", [](std::mt19937_64&) { return kNan; }},
    {"Zeros", [](std::mt19937_64& r) { return r() % 2 == 0 ? 0.0f : -0.0f; }},
    {"LastBit",
     [](std::mt19937_64& r) { return r() % 2 == 0 ? 1.0f : std::nextafter(1.0f, 2.0f); }},
    {"Clustered", [](std::mt19937_64& r) { return (r() % 3) * 100.0f + 1e-5f * Normal(r); }},
    {"OneBeyondTheRest", [](std::mt19937_64& r) { return r() % 500 == 0 ? 3e38f : -kInf; }},
    {"AnyBits",
     [](std::mt19937_64& r) { return std::bit_cast<float>(static_cast<uint32_t>(r())); }},
    {"Special",
     [](std::mt19937_64& r) {
       const float values[] = {0.0f, -0.0f, kInf, -kInf, kNan, -kNan, 1e-45f, -1e-45f, 3.4e38f};
       return values[r() % 9];
     }},
};

class HistogramSelectTest : public testing::TestWithParam<Scores> {};

// Positions go to ranks in stripes, evenly, to one rank alone, or not to all ranks.
TEST_P(HistogramSelectTest, EqualsTheMergeOfAllCandidates) {
  std::mt19937_64 random(3);
  for (int trial = 0; trial < 60; ++trial) {
    const int64_t num_ranks = std::vector<int64_t>{1, 2, 3, 5, 8, 64}[trial % 6];
    const int64_t k = std::vector<int64_t>{1, 2, 7, 100, 2000}[random() % 5];
    const int64_t count =
        static_cast<int64_t>(random() % 3 == 0 ? random() % 50 : random() % 20000);
    const int64_t first = random() % 2 == 0 ? 0 : kMaxPosition - count;
    const int64_t stripe = 1 + static_cast<int64_t>(random() % 64);
    const int64_t owners = random() % 3 == 0 ? 1 : num_ranks - static_cast<int64_t>(random() % 2);
    Ranks ranks(num_ranks);
    for (int64_t i = 0; i < count; ++i) {
      ranks[i / stripe % std::max<int64_t>(1, owners)].push_back(
          PackCandidate(GetParam().make(random), first + i));
    }
    ExpectEqual(Propose(std::move(ranks), k, random), k);
  }
}

INSTANTIATE_TEST_SUITE_P(All, HistogramSelectTest, testing::ValuesIn(kScores),
                         [](const auto& scores) { return std::string(scores.param.name); });

// Whether or not scores have such bits: of all magnitudes, in pairs that differ in the last bit,
// and both ends of 64 bits.
TEST(HistogramSelectTest, AnyIntegersAreSelected) {
  std::mt19937_64 random(4);
  for (int trial = 0; trial < 200; ++trial) {
    std::set<Candidate> values = {1, 2, ~Candidate{0}, ~Candidate{0} - 1};
    for (int i = 0; i < 1500; ++i) {
      const Candidate value = random() >> (random() % 64) | 8;
      values.insert({value, value ^ 1});
    }
    Ranks ranks(1 + random() % 4);
    for (const Candidate value : values) ranks[random() % ranks.size()].push_back(value);
    const int64_t k = 1 + static_cast<int64_t>(random() % values.size());
    ExpectEqual(SelectFrom(ranks, k, {.low = 1, .high = ~Candidate{0}}), ranks, k);
  }
}

TEST(HistogramSelectTest, NoCandidatesAtAll) {
  EXPECT_THAT(ExpectEqual({{0, 0}, {0, 0}}, 2).positions, ElementsAre());
  EXPECT_THAT(ExpectEqual({{}, {}}, 2).positions, ElementsAre());
  EXPECT_THAT(ExpectEqual({{0, PackCandidate(-kInf, 7)}, {0, 0}}, 2).positions, ElementsAre(7));
}

// Where the guess is above the k-th: one rank has the best, another has all the rest.
TEST(HistogramSelectTest, AWrongGuessCostsRoundsOnly) {
  std::mt19937_64 random(5);
  Ranks ranks(64);
  for (int64_t i = 0; i < 40; ++i) ranks[0].push_back(PackCandidate(1000.0f + i, i));
  for (int64_t i = 0; i < 4000; ++i) ranks[1].push_back(PackCandidate(Normal(random), 40 + i));
  const int64_t k = 2000;
  EXPECT_GT(ExpectEqual(Propose(ranks, k, random), k).rounds, 1);
}

// What a run meets: normal scores, spread evenly. One histogram settles them, whatever the ranks.
TEST(HistogramSelectTest, RealisticScoresTakeFewRounds) {
  std::mt19937_64 random(6);
  for (const int64_t num_ranks : {2, 8, 64, 512}) {
    Ranks ranks(num_ranks);
    for (int64_t i = 0; i < 262144; ++i) {
      ranks[i / 512 % num_ranks].push_back(PackCandidate(40 + 15 * Normal(random), i));
    }
    const Outcome outcome = ExpectEqual(Propose(std::move(ranks), 2048, random), 2048);
    EXPECT_EQ(outcome.rounds, 1) << num_ranks;
  }
}

}  // namespace
}  // namespace longspan
