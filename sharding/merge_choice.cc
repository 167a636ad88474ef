#include "sharding/merge_choice.h"

#include <bit>

#include "sharding/digit_select.h"
#include "sharding/histogram_select.h"
#include "sharding/topk_merge.h"

namespace longspan {
namespace {

double StepsOf(int ranks) { return std::bit_width(static_cast<unsigned>(ranks - 1)); }

double CpuHistogramSeconds(int ranks, double rows, double own, const MergeRates& rates) {
  const auto reduce = [&](double bytes) {
    return 2 * StepsOf(ranks) * (rates.step_s + bytes * rates.byte_s);
  };
  const double winners = own + rows * kMostExcess;
  return reduce(rows * sizeof(ScoreRange)) +
         kExpectedHistograms * reduce(rows * kHistogramBins * sizeof(uint32_t)) +
         reduce(ranks * rows * sizeof(uint32_t)) + reduce(winners * sizeof(Candidate)) +
         ((1 + kExpectedHistograms) * own + winners) * rates.candidate_s;
}

double GpuHistogramSeconds(int ranks, double rows, double own, const MergeRates& rates) {
  const auto reduce = [&](double numbers) {
    return 2 * (StepsOf(ranks) * rates.step_s + numbers * sizeof(uint32_t) * rates.byte_s);
  };
  double seconds = reduce(own) + (kDigits + 2) * own * rates.candidate_s;
  for (int digit = 0; digit < kDigits; ++digit) {
    const double sums = rows * static_cast<double>(DigitSums(digit, ranks));
    // Written and read by kernels, a count has as many bytes as a candidate.
    seconds += reduce(sums) + sums * rates.candidate_s;
  }
  return seconds;
}

}  // namespace

double MergeSeconds(Backend backend, MergeWay way, int ranks, int64_t rows, int64_t top_k,
                    const MergeRates& rates) {
  const auto each = static_cast<double>(rows);
  const double own = each * static_cast<double>(top_k);
  if (way == MergeWay::kAllGather) {
    return StepsOf(ranks) * rates.step_s +
           ranks * own * (sizeof(Candidate) * rates.byte_s + rates.candidate_s);
  }
  return backend == Backend::kGpu ? GpuHistogramSeconds(ranks, each, own, rates)
                                  : CpuHistogramSeconds(ranks, each, own, rates);
}

MergeWay CheaperMerge(Backend backend, int ranks, int64_t rows, int64_t top_k,
                      const MergeRates& rates) {
  if (backend == Backend::kGpu && ranks > kMostGatheringGpus) return MergeWay::kHistogram;
  const auto seconds = [&](MergeWay way) {
    return MergeSeconds(backend, way, ranks, rows, top_k, rates);
  };
  return seconds(MergeWay::kHistogram) < seconds(MergeWay::kAllGather) ? MergeWay::kHistogram
                                                                       : MergeWay::kAllGather;
}

int64_t MostRowsMerged(MergeWay way, std::optional<MergeWay> asked, Backend backend, int ranks,
                       int64_t rows, int64_t top_k) {
  if (asked) return *asked == way ? rows : 0;
  while (rows > 0 && CheaperMerge(backend, ranks, rows, top_k) != way) --rows;
  return rows;
}

}  // namespace longspan
