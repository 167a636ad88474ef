#ifndef LONGSPAN_SHARDING_HISTOGRAM_SELECT_H_
#define LONGSPAN_SHARDING_HISTOGRAM_SELECT_H_

#include <cstdint>

#include "absl/types/span.h"
#include "sharding/topk_merge.h"

// The k first of all ranks' candidates without bringing all candidates to every rank: a radix
// select whose histograms are summed over the ranks. Every rank narrows the same bracket around the
// k-th candidate from the same sums; then only what lies at or above the bracket's lower end is
// exchanged, and MergeTopK takes the k first of it. Candidates are integers and sums of counts are
// exact, so the result is that of MergeTopK over all candidates, bit for bit.
//
// For each row (a block or a token), over all ranks:
//   1. RangeOf on each rank, elementwise maxima of the ranges; FirstBracket
//   2. until bracket.settled: CountBins on each rank, sums of the counts; Narrow
//   3. candidates at or above bracket.low, at most k + kMostExcess of them, to every rank;
//   MergeTopK
// docs/ALGORITHM.md has the costs.
namespace longspan {

inline constexpr int kHistogramBits = 10;
inline constexpr int64_t kHistogramBins = int64_t{1} << kHistogramBits;

// Of candidates beyond k that are exchanged: no more bytes than one more histogram would take.
inline constexpr int64_t kMostExcess = kHistogramBins * static_cast<int64_t>(sizeof(uint32_t)) /
                                       static_cast<int64_t>(sizeof(Candidate));

// What a rank says of its candidates of a row at first, such that ranks need only take maxima.
// -inf: nothing is known.
struct ScoreRange {
  float negated_guess;  // of the k-th score, which is probably above
  float best;
};

// Of this rank's candidates, at most k, zeros among them passed over; reorders them. If winners are
// spread evenly, a rank has k / num_ranks of them.
ScoreRange RangeOf(absl::Span<Candidate> candidates, int64_t k, int num_ranks);

// Where the k-th candidate of all ranks is. Every rank has the same.
struct Bracket {
  Candidate low = 1, high = 1;  // both included
  int64_t above = 0;            // candidates beyond high: all of them are winners
  bool settled = false;         // the winners are among the candidates from low on
};

Bracket FirstBracket(const ScoreRange& maxima);

// Adds this rank's candidates within the bracket to counts [kHistogramBins], from its upper end
// down. Positions differ, so that sums over ranks stay below 2^32.
void CountBins(absl::Span<const Candidate> candidates, const Bracket& bracket, uint32_t* counts);

// Narrows an unsettled bracket to the bin that has the k-th candidate, given the sums of all ranks'
// counts. If it lies below the bracket, whose first lower end is a guess, everything below becomes
// the bracket. A bin is 1 / kHistogramBins of its bracket at most, rounded up to a power of two, so
// that eight calls settle any bracket.
void Narrow(absl::Span<const uint32_t> counts, int64_t k, Bracket* bracket);

}  // namespace longspan

#endif  // LONGSPAN_SHARDING_HISTOGRAM_SELECT_H_
