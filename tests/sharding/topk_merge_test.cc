#include "sharding/topk_merge.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <random>
#include <vector>

#include "absl/types/span.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "kernels/reference/reference.h"
#include "kernels/select.h"
#include "sharding/sequence_layout.h"

namespace longspan {
namespace {

using reference::Before;
using reference::Scored;
using ::testing::ElementsAre;
using ::testing::IsEmpty;

constexpr float kInf = std::numeric_limits<float>::infinity();
constexpr float kNan = std::numeric_limits<float>::quiet_NaN();

class TopKMergeTest : public testing::Test {
 protected:
  int64_t Integer(int64_t low, int64_t high) {
    return std::uniform_int_distribution<int64_t>(low, high)(random_);
  }
  // One of few values, so that most scores are tied.
  float TiedScore() {
    const float values[] = {0.0f,
                            -0.0f,
                            1.0f,
                            -1.0f,
                            kInf,
                            -kInf,
                            kNan,
                            -kNan,
                            std::numeric_limits<float>::denorm_min(),
                            -std::numeric_limits<float>::denorm_min(),
                            std::nextafter(1.0f, 2.0f),
                            std::nextafter(1.0f, 0.0f),
                            std::numeric_limits<float>::max(),
                            -std::numeric_limits<float>::max()};
    return values[Integer(0, std::size(values) - 1)];
  }
  float AnyScore() {
    return Integer(0, 2) == 0 ? std::bit_cast<float>(static_cast<uint32_t>(random_()))
                              : TiedScore();
  }
  std::vector<float> Scores(int64_t count, bool tied) {
    std::vector<float> scores(count);
    for (float& score : scores) score = tied ? TiedScore() : AnyScore();
    return scores;
  }

  std::mt19937_64 random_{1};
};

std::vector<int64_t> Ascending(std::vector<int64_t> positions) {
  std::sort(positions.begin(), positions.end());
  return positions;
}

TEST_F(TopKMergeTest, CandidatesAreOrderedAsTheirScoresAndPositions) {
  const int64_t positions[] = {0,
                               1,
                               77,
                               int64_t{1} << 24,
                               (int64_t{1} << 24) + 1,
                               int64_t{1} << 31,
                               kMaxPosition - 1,
                               kMaxPosition};
  for (int trial = 0; trial < 200000; ++trial) {
    const float a = AnyScore(), b = AnyScore();
    const int64_t p = positions[Integer(0, 7)], q = positions[Integer(0, 7)];
    ASSERT_EQ(PackCandidate(a, p) > PackCandidate(b, q), Before({a, p}, {b, q}))
        << a << " at " << p << ", " << b << " at " << q;
    ASSERT_EQ(PositionOf(PackCandidate(a, p)), p);
    ASSERT_GT(PackCandidate(a, p), Candidate{0});
  }
}

TEST_F(TopKMergeTest, MergeOfAllRanksIsTheGlobalTopK) {
  for (int trial = 0; trial < 400; ++trial) {
    const int64_t count = Integer(0, 300);
    const int64_t k = Integer(0, 60);
    const int64_t ranks = Integer(1, 8);
    const std::vector<float> scores = Scores(count, trial % 2 == 0);
    std::vector<std::vector<Candidate>> of_rank(ranks);
    for (int64_t p = 0; p < count; ++p) {
      of_rank[Integer(0, ranks - 1)].push_back(PackCandidate(scores[p], p));
    }
    // Each rank proposes its k first, padded with "none", in any order.
    std::vector<Candidate> all;
    for (std::vector<Candidate>& candidates : of_rank) {
      std::sort(candidates.begin(), candidates.end(), std::greater<>());
      candidates.resize(k, 0);
      all.insert(all.end(), candidates.begin(), candidates.end());
    }
    const std::vector<int64_t> expected = Ascending(reference::TopK(scores, 0, k));
    for (int order = 0; order < 3; ++order) {
      std::shuffle(all.begin(), all.end(), random_);
      std::vector<Candidate> copy = all;
      ASSERT_EQ(MergeTopK(absl::MakeSpan(copy), k), expected) << count << " scores, k " << k;
    }
  }
}

TEST_F(TopKMergeTest, FewerThanKComeBackIfThereAreNoMore) {
  std::vector<Candidate> none = {0, 0, 0};
  EXPECT_THAT(MergeTopK(absl::MakeSpan(none), 2), IsEmpty());
  EXPECT_THAT(MergeTopK({}, 2), IsEmpty());
  std::vector<Candidate> two = {0, PackCandidate(kNan, 9), 0, PackCandidate(-kInf, 12)};
  EXPECT_THAT(MergeTopK(absl::MakeSpan(two), 3), ElementsAre(9, 12));
  EXPECT_THAT(MergeTopK(absl::MakeSpan(two), 1), ElementsAre(12));
}

// The way of runtime/selection: each rank scores its stripes of the middle and a halo either side,
// spreads, keeps its own top-k. The result is that of the whole middle on one rank.
TEST_F(TopKMergeTest, ProximityAtStripeEdgesIsThatOfTheWholeMiddle) {
  for (int trial = 0; trial < 300; ++trial) {
    const SequenceLayout layout = {Integer(1, 20), static_cast<int>(Integer(1, 8))};
    const int64_t proximity = Integer(0, layout.stripe_tokens);
    const int64_t k = Integer(1, 40);
    const int64_t begin = Integer(0, 100);
    const Range middle = {begin, begin + Integer(1, 200)};
    const std::vector<float> scores = Scores(middle.size(), trial % 2 == 0);
    std::vector<float> spread(middle.size());
    reference::Proximity(scores.data(), middle.size(), proximity, 0, middle.size(), spread.data());

    std::vector<Candidate> all;
    for (int rank = 0; rank < layout.num_ranks; ++rank) {
      TopK top(k);
      for (const Range& run : layout.OwnedRuns(rank, middle)) {
        const Range halo = Intersect({run.begin - proximity, run.end + proximity}, middle);
        std::vector<float> local(run.size());
        Proximity(scores.data() + halo.begin - middle.begin, halo.size(), proximity,
                  run.begin - halo.begin, run.end - halo.begin, local.data());
        for (int64_t p = run.begin; p < run.end; ++p) {
          ASSERT_EQ(OrderedBits(local[p - run.begin]), OrderedBits(spread[p - middle.begin]));
        }
        top.Add(local.data(), run.size(), run.begin);
      }
      std::vector<Candidate> mine(k);
      top.Take(mine.data());
      all.insert(all.end(), mine.begin(), mine.end());
    }
    ASSERT_EQ(MergeTopK(absl::MakeSpan(all), k),
              Ascending(reference::TopK(spread, middle.begin, k)));
  }
}

}  // namespace
}  // namespace longspan
