#include "runtime/candidate_merge.h"

#include <algorithm>
#include <cstddef>
#include <iterator>
#include <numeric>

#include "kernels/base/status_macros.h"
#include "sharding/histogram_select.h"
#include "sharding/merge_choice.h"

namespace longspan {
namespace {

constexpr auto kCandidateBytes = static_cast<int64_t>(sizeof(Candidate));

absl::StatusOr<Selections> MergeByAllGather(const AttentionContext& context,
                                            absl::Span<const Candidate> mine, int64_t rows) {
  const int64_t k = context.esa.top_k;
  const int64_t ranks = context.layout.num_ranks;
  std::vector<Candidate> all(ranks * rows * k);  // [ranks, rows, top_k]
  LONGSPAN_RETURN_IF_ERROR(context.communicator->AllGather("select.candidates", mine.data(),
                                                           all.data(), rows * k * kCandidateBytes));
  Selections selections(rows);
  std::vector<Candidate> of_row(ranks * k);
  for (int64_t row = 0; row < rows; ++row) {
    for (int64_t r = 0; r < ranks; ++r) {
      std::copy_n(all.data() + (r * rows + row) * k, k, of_row.data() + r * k);
    }
    selections[row] = MergeTopK(absl::MakeSpan(of_row), k);
  }
  return selections;
}

// One row of a merge by histogram.
struct Row {
  absl::Span<Candidate> mine;
  Bracket bracket;
};

absl::Status AgreeOnBrackets(const AttentionContext& context, std::vector<Row>* rows) {
  std::vector<float> maxima;  // [rows, 2]
  for (const Row& row : *rows) {
    const ScoreRange range = RangeOf(row.mine, context.esa.top_k, context.layout.num_ranks);
    maxima.insert(maxima.end(), {range.negated_guess, range.best});
  }
  LONGSPAN_RETURN_IF_ERROR(context.communicator->AllReduceMax("select.ranges", maxima.data(),
                                                              static_cast<int64_t>(maxima.size())));
  for (size_t i = 0; i < rows->size(); ++i) {
    (*rows)[i].bracket = FirstBracket({maxima[2 * i], maxima[2 * i + 1]});
  }
  return absl::OkStatus();
}

// All rows that are not settled go through a round together.
absl::Status SettleBrackets(const AttentionContext& context, std::vector<Row>* rows) {
  std::vector<Row*> open;
  for (Row& row : *rows) open.push_back(&row);
  std::vector<uint32_t> counts;  // [open rows, bins]
  while (!open.empty()) {
    counts.assign(open.size() * kHistogramBins, 0);
    for (size_t i = 0; i < open.size(); ++i) {
      CountBins(open[i]->mine, open[i]->bracket, counts.data() + i * kHistogramBins);
    }
    LONGSPAN_RETURN_IF_ERROR(context.communicator->AllReduceSum(
        "select.histograms", counts.data(), static_cast<int64_t>(counts.size())));
    for (size_t i = 0; i < open.size(); ++i) {
      Narrow(absl::MakeConstSpan(counts).subspan(i * kHistogramBins, kHistogramBins),
             context.esa.top_k, &open[i]->bracket);
    }
    std::erase_if(open, [](const Row* row) { return row->bracket.settled; });
  }
  return absl::OkStatus();
}

// Every rank gets what all ranks have from the lower ends of the brackets on.
absl::StatusOr<Selections> ExchangeWinners(const AttentionContext& context,
                                           absl::Span<const Row> rows) {
  const size_t ranks = context.layout.num_ranks;
  std::vector<Candidate> mine;
  std::vector<uint32_t> counts(rows.size());
  for (size_t i = 0; i < rows.size(); ++i) {
    const size_t before = mine.size();
    std::copy_if(rows[i].mine.begin(), rows[i].mine.end(), std::back_inserter(mine),
                 [&](Candidate candidate) { return candidate >= rows[i].bracket.low; });
    counts[i] = static_cast<uint32_t>(mine.size() - before);
  }
  std::vector<uint32_t> all_counts(ranks * rows.size());  // [ranks, rows]
  LONGSPAN_RETURN_IF_ERROR(
      context.communicator->AllGather("select.counts", counts.data(), all_counts.data(),
                                      static_cast<int64_t>(counts.size() * sizeof(uint32_t))));
  std::vector<int64_t> bytes(ranks);
  for (size_t r = 0; r < ranks; ++r) {
    const auto of_rank = absl::MakeConstSpan(all_counts).subspan(r * rows.size(), rows.size());
    bytes[r] = std::accumulate(of_rank.begin(), of_rank.end(), int64_t{0}) * kCandidateBytes;
  }
  std::vector<Candidate> all(std::accumulate(bytes.begin(), bytes.end(), int64_t{0}) /
                             kCandidateBytes);  // [ranks, rows, as many as counts say]
  LONGSPAN_RETURN_IF_ERROR(
      context.communicator->AllGatherV("select.winners", mine.data(), all.data(), bytes));

  std::vector<const Candidate*> next(ranks, all.data());  // of each rank's next row
  for (size_t r = 1; r < ranks; ++r) next[r] = next[r - 1] + bytes[r - 1] / kCandidateBytes;
  Selections selections;
  std::vector<Candidate> of_row;
  for (size_t row = 0; row < rows.size(); ++row) {
    of_row.clear();
    for (size_t r = 0; r < ranks; ++r) {
      const uint32_t count = all_counts[r * rows.size() + row];
      of_row.insert(of_row.end(), next[r], next[r] + count);
      next[r] += count;
    }
    selections.push_back(MergeTopK(absl::MakeSpan(of_row), context.esa.top_k));
  }
  return selections;
}

absl::StatusOr<Selections> MergeByHistogram(const AttentionContext& context,
                                            absl::Span<Candidate> mine, int64_t rows) {
  std::vector<Row> all(rows);
  for (int64_t i = 0; i < rows; ++i) {
    all[i].mine = mine.subspan(i * context.esa.top_k, context.esa.top_k);
  }
  LONGSPAN_RETURN_IF_ERROR(AgreeOnBrackets(context, &all));
  LONGSPAN_RETURN_IF_ERROR(SettleBrackets(context, &all));
  return ExchangeWinners(context, all);
}

}  // namespace

std::optional<MergeWay> MergeWayOf(SelectionMerge merge) {
  if (merge == SelectionMerge::kAuto) return std::nullopt;
  return merge == SelectionMerge::kHistogram ? MergeWay::kHistogram : MergeWay::kAllGather;
}

double MergeBytes(MergeWay way, int ranks, int64_t rows, int64_t top_k) {
  const double k = static_cast<double>(top_k);
  const double of_row =
      way == MergeWay::kHistogram
          ? (3 * k + kMostExcess) * sizeof(Candidate) + (kHistogramBins + ranks) * sizeof(uint32_t)
          : (ranks + 1) * k * sizeof(Candidate);
  return static_cast<double>(rows) * of_row;
}

absl::StatusOr<Selections> MergeCandidates(const AttentionContext& context,
                                           absl::Span<Candidate> mine, int64_t rows) {
  const PhaseSpan span(context.phases, Phase::kCandidateMerge);
  const MergeWay way =
      context.merge.value_or(CheaperMerge(context.layout.num_ranks, rows, context.esa.top_k));
  return way == MergeWay::kHistogram ? MergeByHistogram(context, mine, rows)
                                     : MergeByAllGather(context, mine, rows);
}

}  // namespace longspan
