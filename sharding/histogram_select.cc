#include "sharding/histogram_select.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <functional>
#include <limits>

namespace longspan {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr Candidate kOfOneScore = 0xffffffff;  // low bits of the candidates of one score

// +0 for either zero, and NaN for "no candidate".
float ScoreOf(Candidate candidate) {
  const auto bits = static_cast<uint32_t>(candidate >> 32);
  if (bits == 0) return std::numeric_limits<float>::quiet_NaN();
  return std::bit_cast<float>((bits & 0x80000000u) != 0 ? bits & 0x7fffffffu : ~bits);
}

// Bins are 2^shift candidates wide: the narrowest of which there are enough.
int BinShift(const Bracket& bracket) {
  const int bits = static_cast<int>(std::bit_width(bracket.high - bracket.low));
  return std::max(0, bits - kHistogramBits);
}

}  // namespace

ScoreRange RangeOf(absl::Span<Candidate> candidates, int64_t k, int num_ranks) {
  const auto end = std::partition(candidates.begin(), candidates.end(),
                                  [](Candidate candidate) { return candidate != 0; });
  if (end == candidates.begin()) return {-kInfinity, -kInfinity};
  const int64_t share =
      std::min<int64_t>((k + num_ranks - 1) / num_ranks, end - candidates.begin());
  const auto guess = candidates.begin() + share - 1;
  std::nth_element(candidates.begin(), guess, end, std::greater<>());
  const float score = ScoreOf(*guess);
  const float best = ScoreOf(*std::max_element(candidates.begin(), guess + 1));
  return {std::isfinite(score) ? -score : -kInfinity, std::isnan(best) ? -kInfinity : best};
}

Bracket FirstBracket(const ScoreRange& maxima) {
  Bracket bracket;
  bracket.high = PackCandidate(maxima.best, 0);
  bracket.low = std::min(PackCandidate(-maxima.negated_guess, 0), bracket.high);
  bracket.low = std::max<Candidate>(1, bracket.low & ~kOfOneScore);
  return bracket;
}

void CountBins(absl::Span<const Candidate> candidates, const Bracket& bracket, uint32_t* counts) {
  const int shift = BinShift(bracket);
  const Candidate width = bracket.high - bracket.low;
  for (const Candidate candidate : candidates) {
    const Candidate below_high = bracket.high - candidate;  // beyond width if it is outside
    if (below_high <= width) ++counts[below_high >> shift];
  }
}

void Narrow(absl::Span<const uint32_t> counts, int64_t k, Bracket* bracket) {
  const int shift = BinShift(*bracket);
  Candidate bin = 0;
  while (bin < counts.size() && bracket->above + counts[bin] < k) bracket->above += counts[bin++];
  if (bin == counts.size()) {
    // Not within the bracket: below it, or there are fewer than k.
    bracket->settled = bracket->low == 1;
    if (bracket->settled) return;
    bracket->high = bracket->low - 1;
    bracket->low = 1;
    return;
  }
  bracket->high -= bin << shift;
  const Candidate width = (Candidate{1} << shift) - 1;
  bracket->low = std::max(bracket->low, bracket->high - std::min(bracket->high, width));
  bracket->settled =
      bracket->above + counts[bin] <= k + kMostExcess || bracket->low == bracket->high;
}

}  // namespace longspan
