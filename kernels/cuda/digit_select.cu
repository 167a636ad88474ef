#include <cuda_runtime.h>

#include <algorithm>
#include <cub/block/block_radix_sort.cuh>
#include <cub/block/block_scan.cuh>
#include <limits>

#include "absl/strings/str_cat.h"
#include "kernels/base/status_macros.h"
#include "kernels/cuda/digit_select.h"

// A block has a row in each of the steps.
namespace longspan::cuda {
namespace {

constexpr int kThreads = 1024;
constexpr int kLast = kDigits - 1;
constexpr int kBins = static_cast<int>(DigitBins(0));
constexpr int kLastBins = static_cast<int>(DigitBins(kLast));
// A row's counts of a digit are written where those of the digit before were read.
static_assert(kDigits > 1 && DigitBins(kLast - 1) == kBins);

using Scan = cub::BlockScan<uint32_t, kThreads, cub::BLOCK_SCAN_WARP_SCANS>;

struct Digit {
  int shift;
  uint32_t bins;

  __device__ explicit Digit(int digit)
      : shift(DigitShift(digit)), bins(static_cast<uint32_t>(DigitBins(digit))) {}

  // The bin of a candidate, the highest first, or `bins` if it is not in the bracket.
  __device__ uint32_t BinOf(const DigitBracket& bracket, Candidate candidate) const {
    if (bracket.left == 0 || candidate < bracket.lowest) return bins;
    const Candidate bin = (candidate - bracket.lowest) >> shift;
    return bin < bins ? bins - 1 - static_cast<uint32_t>(bin) : bins;
  }
};

// Where the `left`-th first candidate of the bracket is, given all ranks' counts of the digit's
// bins. By the whole block.
__device__ DigitBracket Narrow(DigitBracket bracket, Digit digit, const uint32_t* sums,
                               Scan::TempStorage& storage) {
  constexpr int kThreadBins = kBins / kThreads;
  __shared__ DigitBracket narrowed;
  const uint32_t first = threadIdx.x * kThreadBins;
  uint32_t counts[kThreadBins], before[kThreadBins], total;
#pragma unroll
  for (int i = 0; i < kThreadBins; ++i) counts[i] = sums[first + i];
  Scan(storage).ExclusiveSum(counts, before, total);
  if (total <= bracket.left) return {bracket.lowest, 0};  // no more than are wanted
#pragma unroll
  for (int i = 0; i < kThreadBins; ++i) {
    if (before[i] < bracket.left && before[i] + counts[i] >= bracket.left) {
      const auto bin = static_cast<Candidate>(digit.bins - 1 - (first + i));
      narrowed = {bracket.lowest + (bin << digit.shift), bracket.left - before[i]};
    }
  }
  __syncthreads();
  return narrowed;
}

__global__ void __launch_bounds__(kThreads) CountKernel(DigitSelectArgs args, int index) {
  __shared__ Scan::TempStorage storage;
  __shared__ uint32_t histogram[kBins];
  __shared__ uint32_t above;  // winners whatever the bins say
  const int64_t row = blockIdx.x;
  const Digit digit(index);
  DigitBracket bracket = {1, static_cast<uint32_t>(args.top_k)};
  if (index > 0) {
    bracket = Narrow(args.brackets[row], Digit(index - 1), args.sums + row * kBins, storage);
  }
  for (uint32_t bin = threadIdx.x; bin < digit.bins; bin += kThreads) histogram[bin] = 0;
  if (threadIdx.x == 0) above = 0;
  __syncthreads();  // all have read the old bracket, too
  if (threadIdx.x == 0) args.brackets[row] = bracket;

  const Candidate* candidates = args.candidates + row * args.top_k;
  uint32_t own_above = 0;
  for (int64_t i = threadIdx.x; i < args.top_k; i += kThreads) {
    const Candidate candidate = candidates[i];
    const uint32_t bin = digit.BinOf(bracket, candidate);
    if (bin < digit.bins) {
      atomicAdd(&histogram[bin], 1u);
    } else {
      own_above += candidate >= bracket.lowest;
    }
  }
  if (own_above > 0) atomicAdd(&above, own_above);
  __syncthreads();
  const int64_t stride = DigitSums(index, args.num_ranks);
  uint32_t* sums = (index == kLast ? args.last_sums : args.sums) + row * stride;
  for (uint32_t i = threadIdx.x; i < stride; i += kThreads) {
    const int64_t rank = int64_t{i} - digit.bins;
    sums[i] = rank < 0 ? histogram[i] : rank == args.rank ? above : 0;
  }
}

__global__ void __launch_bounds__(kThreads) PlaceKernel(DigitSelectArgs args) {
  constexpr int kThreadBins = kLastBins / kThreads;
  __shared__ Scan::TempStorage storage;
  __shared__ uint32_t before[kLastBins];  // candidates in higher bins
  __shared__ uint32_t above, next;        // of all ranks; the place of one of this rank's
  const int64_t row = blockIdx.x;
  const Digit digit(kLast);
  const DigitBracket bracket = args.brackets[row];
  const uint32_t* sums = args.last_sums + row * DigitSums(kLast, args.num_ranks);
  uint32_t* winners = args.winners + row * args.top_k;
  for (int64_t i = threadIdx.x; i < args.top_k; i += kThreads) winners[i] = 0;
  if (threadIdx.x == 0) above = next = 0;

  const uint32_t first = threadIdx.x * kThreadBins;
  uint32_t counts[kThreadBins], inside;
#pragma unroll
  for (int i = 0; i < kThreadBins; ++i) counts[i] = sums[first + i];
  Scan(storage).ExclusiveSum(counts, counts, inside);
#pragma unroll
  for (int i = 0; i < kThreadBins; ++i) before[first + i] = counts[i];
  __syncthreads();
  for (int rank = threadIdx.x; rank < args.num_ranks; rank += kThreads) {
    const uint32_t count = sums[kLastBins + rank];
    atomicAdd(&above, count);
    if (rank < args.rank) atomicAdd(&next, count);
  }
  __syncthreads();
  const uint32_t all_above = above;

  const Candidate* candidates = args.candidates + row * args.top_k;
  for (int64_t i = threadIdx.x; i < args.top_k; i += kThreads) {
    const Candidate candidate = candidates[i];
    const uint32_t bin = digit.BinOf(bracket, candidate);
    const bool is_inside = bin < digit.bins;
    if (is_inside ? before[bin] >= bracket.left : candidate < bracket.lowest) continue;
    const uint32_t at = is_inside ? all_above + before[bin] : atomicAdd(&next, 1u);
    // No more than top_k win, unless candidates are the same.
    if (at < args.top_k) winners[at] = static_cast<uint32_t>(candidate);
  }
  if (threadIdx.x == 0) {
    const int64_t count = int64_t{all_above} + min(bracket.left, inside);
    args.counts[row] = static_cast<int32_t>(min(args.top_k, count));
  }
}

// ---- Winners in order of position ----

constexpr int kItems = 2;
constexpr int kTile = kThreads * kItems;
using Sort = cub::BlockRadixSort<uint32_t, kThreads, kItems>;

// Earlier positions have the greater words.
template <typename To>
__device__ void SortTile(const uint32_t* from, To* to, int count, Sort::TempStorage& storage) {
  uint32_t words[kItems];
#pragma unroll
  for (int i = 0; i < kItems; ++i) {
    const int at = i * kThreads + static_cast<int>(threadIdx.x);
    words[i] = at < count ? from[at] : 0;
  }
  Sort(storage).SortDescendingBlockedToStriped(words);
#pragma unroll
  for (int i = 0; i < kItems; ++i) {
    const int at = i * kThreads + static_cast<int>(threadIdx.x);
    if (at < count) to[at] = words[i];
  }
  __syncthreads();
}

// Of runs that are in order, every two become one: a word's place is that in its own run and the
// number of greater ones in the other.
template <typename From, typename To>
__device__ void MergeRuns(const From* from, To* to, int count, int64_t run) {
  for (int64_t i = threadIdx.x; i < count; i += kThreads) {
    const From word = from[i];
    const int64_t own = i / run;
    const int64_t other = min((own ^ 1) * run, int64_t{count});
    int64_t low = other;
    for (int64_t high = min(other + run, int64_t{count}); low < high;) {
      const int64_t middle = low + (high - low) / 2;
      if (from[middle] > word) {
        low = middle + 1;
      } else {
        high = middle;
      }
    }
    const int64_t pair = own / 2 * 2 * run;
    to[pair + (i - own * run) + (low - other)] = word;
  }
  __syncthreads();
}

__global__ void __launch_bounds__(kThreads) OrderKernel(DigitSelectArgs args) {
  __shared__ Sort::TempStorage storage;
  const int64_t row = blockIdx.x;
  const int count = args.counts[row];
  uint32_t* const winners = args.winners + row * args.top_k;
  Candidate* const selected = args.selected + row * args.top_k;
  if (count <= kTile) return SortTile(winners, selected, count, storage);
  for (int begin = 0; begin < count; begin += kTile) {
    SortTile(winners + begin, winners + begin, min(kTile, count - begin), storage);
  }
  bool is_selected = false;
  for (int64_t run = kTile; run < count; run *= 2, is_selected = !is_selected) {
    if (is_selected) {
      MergeRuns(selected, winners, count, run);
    } else {
      MergeRuns(winners, selected, count, run);
    }
  }
  if (is_selected) return;
  for (int i = threadIdx.x; i < count; i += kThreads) selected[i] = winners[i];
}

absl::Status CheckArgs(const DigitSelectArgs& args) {
  // Candidates of all ranks are counted in 32 bits.
  constexpr int64_t kMostCounted = std::numeric_limits<uint32_t>::max();
  if (args.num_ranks >= 1 && 0 <= args.rank && args.rank < args.num_ranks && args.top_k >= 1 &&
      args.top_k <= std::min(kMaxDigitSelected, kMostCounted / args.num_ranks)) {
    return absl::OkStatus();
  }
  return absl::InvalidArgumentError(
      absl::StrCat("cannot select ", args.top_k, " candidates of ", args.num_ranks, " ranks"));
}

}  // namespace

absl::Status CountDigit(const DigitSelectArgs& args, int digit, Stream stream) {
  LONGSPAN_RETURN_IF_ERROR(CheckArgs(args));
  if (digit < 0 || digit >= kDigits) {
    return absl::InvalidArgumentError(absl::StrCat("there is no digit ", digit));
  }
  if (args.rows == 0) return absl::OkStatus();
  CountKernel<<<static_cast<unsigned>(args.rows), kThreads, 0, stream>>>(args, digit);
  return CheckLaunch("CountDigit");
}

absl::Status PlaceWinners(const DigitSelectArgs& args, Stream stream) {
  LONGSPAN_RETURN_IF_ERROR(CheckArgs(args));
  if (args.rows == 0) return absl::OkStatus();
  PlaceKernel<<<static_cast<unsigned>(args.rows), kThreads, 0, stream>>>(args);
  return CheckLaunch("PlaceWinners");
}

absl::Status OrderWinners(const DigitSelectArgs& args, Stream stream) {
  LONGSPAN_RETURN_IF_ERROR(CheckArgs(args));
  if (args.rows == 0) return absl::OkStatus();
  OrderKernel<<<static_cast<unsigned>(args.rows), kThreads, 0, stream>>>(args);
  return CheckLaunch("OrderWinners");
}

}  // namespace longspan::cuda
