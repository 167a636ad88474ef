#include "runtime/candidate_merge.h"

#include <algorithm>
#include <cstddef>
#include <functional>
#include <numeric>

#include "kernels/base/check.h"
#include "kernels/base/status_macros.h"
#include "runtime/layer_collectives.h"
#include "sharding/histogram_select.h"
#include "sharding/merge_choice.h"

namespace longspan {
namespace {

absl::StatusOr<Selections> MergeByAllGather(const AttentionContext& context,
                                            absl::Span<const Candidate> mine, int64_t rows) {
  const int64_t k = context.esa.picks();
  const int64_t ranks = context.layout.num_ranks;
  const Collective gather = GatherCandidates(LayerShapeOf(context), rows);
  LONGSPAN_CHECK(gather.bytes[0] == static_cast<int64_t>(mine.size() * sizeof(Candidate)));
  std::vector<Candidate> all(ranks * rows * k);  // [ranks, rows, top_k]
  LONGSPAN_RETURN_IF_ERROR(
      context.communicator->AllGather(gather.name, mine.data(), all.data(), gather.bytes[0]));
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
    const ScoreRange range = RangeOf(row.mine, context.esa.picks(), context.layout.num_ranks);
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
             context.esa.picks(), &open[i]->bracket);
    }
    std::erase_if(open, [](const Row* row) { return row->bracket.settled; });
  }
  return absl::OkStatus();
}

// Where the winners of each rank begin among all, row by row, and the end: [rows * ranks + 1].
absl::StatusOr<std::vector<size_t>> PlaceWinners(const AttentionContext& context,
                                                 absl::Span<const Row> rows) {
  const size_t ranks = context.layout.num_ranks;
  // Zeros but this rank's, until they are summed. [rows, ranks]
  std::vector<uint32_t> counts(rows.size() * ranks);
  for (size_t i = 0; i < rows.size(); ++i) {
    counts[i * ranks + context.communicator->rank()] = static_cast<uint32_t>(
        std::count_if(rows[i].mine.begin(), rows[i].mine.end(),
                      [&](Candidate candidate) { return candidate >= rows[i].bracket.low; }));
  }
  LONGSPAN_RETURN_IF_ERROR(context.communicator->AllReduceSum("select.counts", counts.data(),
                                                              static_cast<int64_t>(counts.size())));
  std::vector<size_t> places(counts.size() + 1);
  std::inclusive_scan(counts.begin(), counts.end(), places.begin() + 1, std::plus<>(), size_t{0});
  return places;
}

// Every rank gets the winners of all: each writes its own where they belong among zeros, and the
// sum has all. Gathers would do, but Open MPI 4.1 sends a message from each rank to each other for
// one that may be waited for with a time limit; its reductions go up a tree and down again.
absl::StatusOr<Selections> ExchangeWinners(const AttentionContext& context,
                                           absl::Span<const Row> rows) {
  LONGSPAN_ASSIGN_OR_RETURN(const std::vector<size_t> places, PlaceWinners(context, rows));
  const size_t ranks = context.layout.num_ranks;
  std::vector<uint32_t> halves(2 * places.back());  // of candidates, the upper ones first
  for (size_t i = 0; i < rows.size(); ++i) {
    uint32_t* next = halves.data() + 2 * places[i * ranks + context.communicator->rank()];
    for (const Candidate candidate : rows[i].mine) {
      if (candidate < rows[i].bracket.low) continue;
      *next++ = static_cast<uint32_t>(candidate >> 32);
      *next++ = static_cast<uint32_t>(candidate);
    }
  }
  LONGSPAN_RETURN_IF_ERROR(context.communicator->AllReduceSum("select.winners", halves.data(),
                                                              static_cast<int64_t>(halves.size())));

  Selections selections;
  std::vector<Candidate> of_row;
  for (size_t i = 0; i < rows.size(); ++i) {
    of_row.clear();
    for (size_t at = places[i * ranks]; at < places[(i + 1) * ranks]; ++at) {
      of_row.push_back(static_cast<Candidate>(halves[2 * at]) << 32 | halves[2 * at + 1]);
    }
    selections.push_back(MergeTopK(absl::MakeSpan(of_row), context.esa.picks()));
  }
  return selections;
}

absl::StatusOr<Selections> MergeByHistogram(const AttentionContext& context,
                                            absl::Span<Candidate> mine, int64_t rows) {
  std::vector<Row> all(rows);
  for (int64_t i = 0; i < rows; ++i) {
    all[i].mine = mine.subspan(i * context.esa.picks(), context.esa.picks());
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

double MostMergeBytes(std::optional<MergeWay> way, int ranks, int64_t most_rows, int64_t top_k) {
  const auto bytes = [&](MergeWay merge, int64_t rows) {
    return MergeBytes(merge, ranks, rows, top_k);
  };
  if (way) return bytes(*way, most_rows);
  if (CheaperMerge(Backend::kCpu, ranks, most_rows, top_k) == MergeWay::kAllGather) {
    return bytes(MergeWay::kAllGather, most_rows);
  }
  // Both costs are linear in rows, and without rows a gather, of fewer messages, costs less: the
  // histogram is the cheaper one from some number of rows on. Fewer may need more memory.
  int64_t gathered = 0, counted = most_rows;
  while (counted - gathered > 1) {
    const int64_t rows = gathered + (counted - gathered) / 2;
    (CheaperMerge(Backend::kCpu, ranks, rows, top_k) == MergeWay::kAllGather ? gathered : counted) =
        rows;
  }
  return std::max(bytes(MergeWay::kAllGather, gathered), bytes(MergeWay::kHistogram, most_rows));
}

absl::StatusOr<Selections> MergeCandidates(const AttentionContext& context,
                                           absl::Span<Candidate> mine, int64_t rows) {
  const PhaseSpan span(context.phases, Phase::kCandidateMerge);
  const MergeWay way = context.merge.value_or(
      CheaperMerge(Backend::kCpu, context.layout.num_ranks, rows, context.esa.picks()));
  return way == MergeWay::kHistogram ? MergeByHistogram(context, mine, rows)
                                     : MergeByAllGather(context, mine, rows);
}

}  // namespace longspan
