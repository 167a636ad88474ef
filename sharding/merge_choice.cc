#include "sharding/merge_choice.h"

#include <bit>

#include "sharding/histogram_select.h"
#include "sharding/topk_merge.h"

namespace longspan {
namespace {

double StepsOf(int ranks) { return std::bit_width(static_cast<unsigned>(ranks - 1)); }

double ReduceSeconds(int ranks, double bytes, const MergeRates& rates) {
  return 2 * StepsOf(ranks) * (rates.step_s + bytes * rates.byte_s);
}

}  // namespace

double MergeSeconds(MergeWay way, int ranks, int64_t rows, int64_t top_k, const MergeRates& rates) {
  const double each = static_cast<double>(rows);
  const double own = each * static_cast<double>(top_k);
  if (way == MergeWay::kAllGather) {
    return StepsOf(ranks) * rates.step_s +
           ranks * own * (sizeof(Candidate) * rates.byte_s + rates.candidate_s);
  }
  const double winners = own + each * kMostExcess;
  return ReduceSeconds(ranks, each * sizeof(ScoreRange), rates) +
         kExpectedHistograms *
             ReduceSeconds(ranks, each * kHistogramBins * sizeof(uint32_t), rates) +
         ReduceSeconds(ranks, ranks * each * sizeof(uint32_t), rates) +
         ReduceSeconds(ranks, winners * sizeof(Candidate), rates) +
         ((1 + kExpectedHistograms) * own + winners) * rates.candidate_s;
}

MergeWay CheaperMerge(int ranks, int64_t rows, int64_t top_k, const MergeRates& rates) {
  return MergeSeconds(MergeWay::kHistogram, ranks, rows, top_k, rates) <
                 MergeSeconds(MergeWay::kAllGather, ranks, rows, top_k, rates)
             ? MergeWay::kHistogram
             : MergeWay::kAllGather;
}

}  // namespace longspan
