#ifndef LONGSPAN_KERNELS_CUDA_DIGIT_SELECT_H_
#define LONGSPAN_KERNELS_CUDA_DIGIT_SELECT_H_

#include <cstdint>

#include "absl/status/status.h"
#include "kernels/cuda/device.h"
#include "sharding/digit_select.h"
#include "sharding/topk_merge.h"

// The selection by histogram of sharding/digit_select.h: what MergeCandidates (merge.h) makes of
// all ranks' candidates, without gathering them. A rank's share of the steps, between which sums
// over the ranks are taken:
//   for each digit: CountDigit; sum rows * DigitSums(digit, num_ranks) numbers at SumsOf(args,
//   digit)
//   PlaceWinners; sum rows * top_k numbers at `winners`
//   OrderWinners
namespace longspan::cuda {

// Of the candidates that agree with the k-th in all digits so far, the `left` first are winners, as
// are all above them. 0: all from `lowest` on are, and no more.
struct DigitBracket {
  Candidate lowest;  // of those that agree
  uint32_t left;
};

struct DigitSelectArgs {
  const Candidate* candidates = nullptr;  // device [rows, top_k] of this rank; zero: none
  int rank = 0;
  int num_ranks = 1;
  int64_t rows = 0;
  int64_t top_k = 0;                 // at most kMaxDigitSelected
  DigitBracket* brackets = nullptr;  // device [rows]
  uint32_t* sums = nullptr;          // device [rows, DigitSums] of all digits but the last
  uint32_t* last_sums = nullptr;     // device [rows, DigitSums] of the last digit
  uint32_t* winners = nullptr;       // device [rows, top_k]
  // As of MergeCandidates, ascending by position, but with positions only: score bits are 0.
  Candidate* selected = nullptr;  // device [rows, top_k]
  int32_t* counts = nullptr;      // device [rows]
};
inline constexpr int64_t kMaxDigitSelected = int64_t{1} << 30;

inline uint32_t* SumsOf(const DigitSelectArgs& args, int digit) {
  return digit == kDigits - 1 ? args.last_sums : args.sums;
}

absl::Status CountDigit(const DigitSelectArgs& args, int digit, Stream stream);
absl::Status PlaceWinners(const DigitSelectArgs& args, Stream stream);
absl::Status OrderWinners(const DigitSelectArgs& args, Stream stream);

}  // namespace longspan::cuda

#endif  // LONGSPAN_KERNELS_CUDA_DIGIT_SELECT_H_
