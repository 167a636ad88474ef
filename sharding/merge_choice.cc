#include "sharding/merge_choice.h"

#include <bit>

#include "sharding/histogram_select.h"
#include "sharding/topk_merge.h"

namespace longspan {
namespace {

double StepsOf(int ranks) { return std::bit_width(static_cast<unsigned>(ranks - 1)); }

double ReduceSeconds(int ranks, double bytes, const MergeRates& rates) {
  return StepsOf(ranks) * (rates.step_s + bytes * rates.byte_s);
}

double GatherSeconds(int ranks, double bytes_of_all, const MergeRates& rates) {
  return StepsOf(ranks) * rates.step_s + bytes_of_all * rates.byte_s;
}

}  // namespace

double MergeSeconds(MergeWay way, int ranks, int64_t rows, int64_t top_k, const MergeRates& rates) {
  const double each = static_cast<double>(rows);
  const double own = each * static_cast<double>(top_k);
  if (way == MergeWay::kAllGather) {
    return GatherSeconds(ranks, ranks * own * sizeof(Candidate), rates) +
           ranks * own * rates.candidate_s;
  }
  const double histogram = each * kHistogramBins * sizeof(uint32_t);
  const double winners = own + each * kMostExcess;
  return ReduceSeconds(ranks, each * sizeof(ScoreRange), rates) +
         kExpectedHistograms * (ReduceSeconds(ranks, histogram, rates) + own * rates.candidate_s) +
         GatherSeconds(ranks, ranks * each * sizeof(uint32_t), rates) +
         GatherSeconds(ranks, winners * sizeof(Candidate), rates) +
         (own + winners) * rates.candidate_s;
}

MergeWay CheaperMerge(int ranks, int64_t rows, int64_t top_k, const MergeRates& rates) {
  return MergeSeconds(MergeWay::kHistogram, ranks, rows, top_k, rates) <
                 MergeSeconds(MergeWay::kAllGather, ranks, rows, top_k, rates)
             ? MergeWay::kHistogram
             : MergeWay::kAllGather;
}

}  // namespace longspan
