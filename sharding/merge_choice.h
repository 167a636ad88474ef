#ifndef LONGSPAN_SHARDING_MERGE_CHOICE_H_
#define LONGSPAN_SHARDING_MERGE_CHOICE_H_

#include <cstdint>

namespace longspan {

// How all ranks come to know the top-k of all ranks' candidates; the result is the same.
// kAllGather: every rank gets every rank's candidates. kHistogram: sharding/histogram_select.h.
enum class MergeWay { kAllGather, kHistogram };

// What a message between two ranks costs, and a candidate that a rank looks at.
struct MergeRates {
  double step_s = 5e-6;       // latency of a message, with what MPI adds
  double byte_s = 1e-10;      // 10 GB/s
  double candidate_s = 4e-9;  // MergeTopK's, on one core
};

// Of scores without many ties (tests/sharding/histogram_select_test.cc).
inline constexpr int kExpectedHistograms = 1;

// Seconds, by plain assumptions: a gather takes ceil(log2 ranks) steps, and all of its bytes arrive
// once; a reduction takes as many up a tree and as many down, and all of its bytes in each.
double MergeSeconds(MergeWay way, int ranks, int64_t rows, int64_t top_k,
                    const MergeRates& rates = {});

// The way that costs less, kAllGather if neither does. A pure function of what all ranks know, so
// that all choose the same.
MergeWay CheaperMerge(int ranks, int64_t rows, int64_t top_k, const MergeRates& rates = {});

}  // namespace longspan

#endif  // LONGSPAN_SHARDING_MERGE_CHOICE_H_
