#include "runtime/candidate_merge.h"

#include <algorithm>
#include <cmath>
#include <functional>
#include <limits>
#include <optional>
#include <random>
#include <string>
#include <tuple>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/types/span.h"
#include "collectives/thread_communicator.h"
#include "gtest/gtest.h"
#include "kernels/base/status_macros.h"
#include "kernels/select.h"
#include "sharding/histogram_select.h"

namespace longspan {
namespace {

constexpr int64_t kTopK = 200;  // of several ranks, more than may be exchanged at once
constexpr float kInf = std::numeric_limits<float>::infinity();

// Scores of the rows of a merge, a row a kind, [count].
std::vector<std::vector<float>> RowsOfScores() {
  std::mt19937_64 random(8);
  std::normal_distribution<float> normal;
  const std::function<float()> kinds[] = {
      [&] { return normal(random); },
      [&] { return 2.5f; },
      [&] { return -kInf; },
      [&] { return random() % 2 == 0 ? 0.0f : -0.0f; },
      [&] { return random() % 3 == 0 ? std::nanf("") : std::round(normal(random)); },
  };
  std::vector<std::vector<float>> rows;
  for (const int64_t count : {5000, 250, 20, 0}) {
    for (const auto& kind : kinds) {
      std::generate_n(std::back_inserter(rows.emplace_back()), count, kind);
    }
  }
  return rows;
}

// This rank's candidates of the positions that it owns, [rows, top_k].
std::vector<Candidate> Propose(const std::vector<std::vector<float>>& rows,
                               const SequenceLayout& layout, int rank) {
  std::vector<Candidate> candidates(rows.size() * kTopK);
  for (size_t row = 0; row < rows.size(); ++row) {
    TopK top(kTopK);
    for (const Range& run : layout.OwnedRuns(rank, {0, static_cast<int64_t>(rows[row].size())})) {
      top.Add(rows[row].data() + run.begin, run.size(), run.begin);
    }
    top.Take(candidates.data() + row * kTopK);
  }
  return candidates;
}

class CandidateMergeTest : public testing::TestWithParam<std::tuple<MergeWay, int>> {};

TEST_P(CandidateMergeTest, EveryRankGetsTheTopKOfEveryRow) {
  const MergeWay way = std::get<0>(GetParam());
  const int ranks = std::get<1>(GetParam());
  const std::vector<std::vector<float>> rows = RowsOfScores();
  const absl::Status ran = RunThreadRanks(ranks, [&](Communicator& communicator) -> absl::Status {
    AttentionContext context;
    context.communicator = &communicator;
    context.layout = {8, communicator.size()};
    context.selects = true;
    context.esa.top_k = kTopK;
    context.merge = way;
    std::vector<Candidate> mine = Propose(rows, context.layout, communicator.rank());
    LONGSPAN_ASSIGN_OR_RETURN(
        const Selections merged,
        MergeCandidates(context, absl::MakeSpan(mine), static_cast<int64_t>(rows.size())));
    Selections expected;
    for (const std::vector<float>& scores : rows) {
      std::vector<Candidate> all;
      for (size_t p = 0; p < scores.size(); ++p) {
        all.push_back(PackCandidate(scores[p], static_cast<int64_t>(p)));
      }
      expected.push_back(MergeTopK(absl::MakeSpan(all), kTopK));
    }
    EXPECT_EQ(merged, expected) << "rank " << communicator.rank();
    const CommunicatorStats& stats = communicator.stats();
    EXPECT_EQ(stats.contains("select.candidates"), way == MergeWay::kAllGather);
    if (way == MergeWay::kAllGather) return absl::OkStatus();
    size_t most = 0;
    for (const auto& row : rows) most += std::min<size_t>(row.size(), kTopK + kMostExcess);
    EXPECT_LE(stats.at("select.winners").bytes_sent, (ranks - 1) * most * sizeof(Candidate));
    return absl::OkStatus();
  });
  EXPECT_TRUE(ran.ok()) << ran;
}

INSTANTIATE_TEST_SUITE_P(Ways, CandidateMergeTest,
                         testing::Combine(testing::Values(MergeWay::kAllGather,
                                                          MergeWay::kHistogram),
                                          testing::Values(1, 2, 3, 5, 8)),
                         [](const auto& test) {
                           return absl::StrCat(std::get<0>(test.param) == MergeWay::kHistogram
                                                   ? "Histogram"
                                                   : "AllGather",
                                               std::get<1>(test.param));
                         });

// In the one that is cheaper for it, a merge of fewer rows may need more than that of the most.
TEST(CandidateMergeBytesTest, MostIsThatOfAnyNumberOfRows) {
  bool fewer_need_more = false;
  for (const int ranks : {1, 2, 6, 8, 48, 4096}) {
    for (const int64_t k : {1, 16, 512, 2048}) {
      double most = 0;
      for (int64_t rows = 1; rows <= 130; ++rows) {
        const double bytes =
            MergeBytes(CheaperMerge(Backend::kCpu, ranks, rows, k), ranks, rows, k);
        fewer_need_more = fewer_need_more || bytes < most;
        most = std::max(most, bytes);
        ASSERT_EQ(MostMergeBytes(std::nullopt, ranks, rows, k), most)
            << ranks << " ranks, " << rows << " rows of " << k;
      }
    }
  }
  EXPECT_TRUE(fewer_need_more);
  EXPECT_EQ(MostMergeBytes(MergeWay::kAllGather, 48, 130, 512),
            MergeBytes(MergeWay::kAllGather, 48, 130, 512));
}

}  // namespace
}  // namespace longspan
