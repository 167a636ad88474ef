#ifndef LONGSPAN_SHARDING_DIGIT_SELECT_H_
#define LONGSPAN_SHARDING_DIGIT_SELECT_H_

#include <algorithm>
#include <cstdint>

// How GPU ranks select by histogram (kernels/cuda/digit_select.h): a radix select over all 64 bits
// of the candidates, whose number of rounds and whose sizes do not depend on them. No host has to
// look at a result, and a CUDA graph can hold all of it. For each row, over all ranks:
//   1. For each digit, from the highest: counts of the digit's bins among the candidates that agree
//      with the k-th in all digits before, summed. With the last digit's go the numbers of each
//      rank's candidates that are above these bins, and so winners.
//   2. No bin of the last digit has two candidates, as their positions differ. So everyone knows
//      which bins win, and every winner has a place of its own: among its rank's, or by its bin
//      behind all ranks'. Ranks write their winners' positions there among zeros, and sum those.
namespace longspan {

// Of larger digits there would be fewer, but 32 KiB of counts are about what a reduction moves in
// its latency.
inline constexpr int kDigitBits = 13;
inline constexpr int kDigits = (64 + kDigitBits - 1) / kDigitBits;

// Bits of a candidate below a digit; digit -1 is what stands before all.
constexpr int DigitShift(int digit) { return std::max(0, 64 - (digit + 1) * kDigitBits); }
constexpr int64_t DigitBins(int digit) {
  return int64_t{1} << (DigitShift(digit - 1) - DigitShift(digit));
}

// Numbers of a row that are summed over the ranks for a digit.
constexpr int64_t DigitSums(int digit, int num_ranks) {
  return DigitBins(digit) + (digit == kDigits - 1 ? num_ranks : 0);
}

}  // namespace longspan

#endif  // LONGSPAN_SHARDING_DIGIT_SELECT_H_
