#ifndef LONGSPAN_SHARDING_MERGE_CHOICE_H_
#define LONGSPAN_SHARDING_MERGE_CHOICE_H_

#include <cstdint>
#include <optional>

#include "sharding/backend.h"

namespace longspan {

// How all ranks come to know the top-k of all ranks' candidates; the result is the same.
// kAllGather: every rank gets every rank's candidates. kHistogram: sharding/histogram_select.h on
// CPUs, sharding/digit_select.h on GPUs.
enum class MergeWay { kAllGather, kHistogram };

// What a message between two ranks costs, and a candidate that a rank looks at.
struct MergeRates {
  double step_s;       // latency of a message, with what the library adds
  double byte_s;       // that comes to a rank
  double candidate_s;  // MergeTopK's on one core, MergeCandidates' on a GPU
};
// CPUs: MPI at 10 GB/s. GPUs: NCCL between hosts of eight GPUs, a port of 50 GB/s each, which pass
// on to each other what came to one at 400 GB/s.
constexpr MergeRates RatesOf(Backend backend) {
  return backend == Backend::kGpu ? MergeRates{5e-6, 5e-12, 2e-11} : MergeRates{5e-6, 1e-10, 4e-9};
}

// Of scores without many ties (tests/sharding/histogram_select_test.cc).
inline constexpr int kExpectedHistograms = 1;

// GPU ranks whose candidates a kernel merges, at most.
inline constexpr int kMostGatheringGpus = 1024;

// Seconds, by plain assumptions: a gather takes ceil(log2 ranks) steps, and all of its bytes arrive
// once; a reduction takes as many up a tree and as many down, and all of its bytes in each. On GPUs
// bytes of many steps are under way at once, and take the time of two; and the counts of a
// histogram are no fewer than candidates, and cost as much to look at.
double MergeSeconds(Backend backend, MergeWay way, int ranks, int64_t rows, int64_t top_k,
                    const MergeRates& rates);

// The way that costs less, kAllGather if neither does and there are not too many GPUs for it. A
// pure function of what all ranks know, so that all choose the same.
MergeWay CheaperMerge(Backend backend, int ranks, int64_t rows, int64_t top_k,
                      const MergeRates& rates);
inline MergeWay CheaperMerge(Backend backend, int ranks, int64_t rows, int64_t top_k) {
  return CheaperMerge(backend, ranks, rows, top_k, RatesOf(backend));
}

// The most of up to `rows` rows that a merge takes `way` with; 0 if none does. `asked`: what all
// take; empty: what is cheaper.
int64_t MostRowsMerged(MergeWay way, std::optional<MergeWay> asked, Backend backend, int ranks,
                       int64_t rows, int64_t top_k);

}  // namespace longspan

#endif  // LONGSPAN_SHARDING_MERGE_CHOICE_H_
