#include <cuda_runtime.h>

#include <algorithm>
#include <bit>
#include <limits>

#include "absl/strings/str_cat.h"
#include "kernels/base/status_macros.h"
#include "kernels/cuda/merge.h"
#include "kernels/cuda/numbers.cuh"

namespace longspan::cuda {
namespace {

constexpr int kWarp = 32;
constexpr unsigned kAllLanes = 0xffffffffu;

// ---- Candidates ----

// A block merges a row.
constexpr int kThreads = 1024;
constexpr int kWarps = kThreads / kWarp;
static_assert(kWarps == kWarp);  // a warp sums up what the warps have counted

constexpr int kDigitBits = 11;
constexpr int kBins = 1 << kDigitBits;
constexpr int kThreadBins = kBins / kThreads;
static_assert(kThreadBins == 2);
// So few are ordered by comparing each with all, kRankers threads each.
constexpr int kRanked = 128;
constexpr int kRankers = kThreads / kRanked;

// Up to so many, the taken ones are put in order in the block's own memory, which any GPU has.
constexpr int64_t kSharedTopK = 4096;
constexpr int64_t kMaxSharedBytes = 2 * kSharedTopK * static_cast<int64_t>(sizeof(Candidate));

// In a digit's histogram: the bin of the `left`-th first candidate, and how many have higher ones.
struct Bin {
  uint32_t digit, before, count;
};

struct BlockMemory {
  alignas(8) uint32_t histogram[kBins];  // the highest digit first
  Candidate ranked[kRanked];
  Candidate threshold;
  uint32_t num_ranked;
  Bin bin;
  uint32_t warp_sums[kWarps], warp_lowest[kWarps], warp_highest[kWarps];
  int32_t begins[kMaxMergedRanks + 1];  // of each rank's taken candidates
};

// The candidates of a row, in chunks of a warp's width that belong to one rank each. A warp has
// consecutive chunks, in the order of ranks and positions; its threads keep them in kItems
// registers, or read them again each time if kItems is 0.
template <int kItems>
class Words {
 public:
  __device__ Words(const MergeCandidatesArgs& args, int64_t row)
      : top_k_(args.top_k),
        rank_stride_(args.rows * args.top_k),
        words_(args.candidates + row * args.top_k + threadIdx.x % kWarp) {
    rank_chunks_ = static_cast<int>((args.top_k + kWarp - 1) / kWarp);
    const int chunks = args.num_ranks * rank_chunks_;
    const int share = (chunks + kWarps - 1) / kWarps;
    const int first = min(chunks, static_cast<int>(threadIdx.x) / kWarp * share);
    count_ = min(share, chunks - first);
    rank_ = first / rank_chunks_;
    chunk_ = first % rank_chunks_;
    if constexpr (kItems > 0) {
      Cursor at = Begin();
#pragma unroll
      for (int i = 0; i < kItems; ++i, Advance(&at)) held_[i] = i < count_ ? Load(at) : 0;
    }
  }

  // f(rank, whether the chunk is the rank's first, word) for the chunks of the calling warp, all of
  // it at once; a word may be 0.
  template <typename F>
  __device__ void ForEach(F&& f) const {
    Cursor at = Begin();
    if constexpr (kItems > 0) {
#pragma unroll
      for (int i = 0; i < kItems; ++i, Advance(&at)) {
        if (i < count_) f(at.rank, at.chunk == 0, held_[i]);
      }
    } else {
      constexpr int kAtOnce = 8;  // loads under way
      Cursor ahead = at;
      for (int begin = 0; begin < count_; begin += kAtOnce) {
        Candidate loaded[kAtOnce];
#pragma unroll
        for (int i = 0; i < kAtOnce; ++i, Advance(&ahead)) {
          loaded[i] = begin + i < count_ ? Load(ahead) : 0;
        }
#pragma unroll
        for (int i = 0; i < kAtOnce; ++i, Advance(&at)) {
          if (begin + i < count_) f(at.rank, at.chunk == 0, loaded[i]);
        }
      }
    }
  }

 private:
  struct Cursor {
    int rank, chunk;
  };

  __device__ Cursor Begin() const { return {rank_, chunk_}; }
  __device__ void Advance(Cursor* at) const {
    if (++at->chunk == rank_chunks_) *at = {at->rank + 1, 0};
  }
  __device__ Candidate Load(Cursor at) const {
    const int64_t i = int64_t{at.chunk} * kWarp;
    if (i + threadIdx.x % kWarp >= top_k_) return 0;
    return __ldg(words_ + at.rank * rank_stride_ + i);
  }

  int64_t top_k_;
  int64_t rank_stride_;
  const Candidate* words_;  // of this lane
  int rank_chunks_;
  int rank_, chunk_;  // the warp's first chunk
  int count_;         // of the warp's chunks
  Candidate held_[kItems > 0 ? kItems : 1];
};

__device__ uint32_t WarpSumThrough(uint32_t value) {
  const int lane = threadIdx.x % kWarp;
#pragma unroll
  for (int width = 1; width < kWarp; width *= 2) {
    const uint32_t other = __shfl_up_sync(kAllLanes, value, width);
    if (lane >= width) value += other;
  }
  return value;
}

// Of those that are there: how many, and between which score bits.
struct Extent {
  uint32_t count, lowest, highest;
};

template <int kItems>
__device__ Extent ExtentOf(const Words<kItems>& words, BlockMemory& memory) {
  Extent extent = {0, 0xffffffffu, 0};
  words.ForEach([&](int, bool, Candidate word) {
    if (word == 0) return;
    const auto bits = static_cast<uint32_t>(word >> 32);
    ++extent.count;
    extent.lowest = min(extent.lowest, bits);
    extent.highest = max(extent.highest, bits);
  });
  const int lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp;
  extent = {__reduce_add_sync(kAllLanes, extent.count), __reduce_min_sync(kAllLanes, extent.lowest),
            __reduce_max_sync(kAllLanes, extent.highest)};
  if (lane == 0) {
    memory.warp_sums[warp] = extent.count;
    memory.warp_lowest[warp] = extent.lowest;
    memory.warp_highest[warp] = extent.highest;
  }
  __syncthreads();
  extent = {__reduce_add_sync(kAllLanes, memory.warp_sums[lane]),
            __reduce_min_sync(kAllLanes, memory.warp_lowest[lane]),
            __reduce_max_sync(kAllLanes, memory.warp_highest[lane])};
  __syncthreads();
  return extent;
}

__device__ Bin FindBin(uint32_t left, BlockMemory& memory) {
  const int lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp;
  const uint2 counts = reinterpret_cast<const uint2*>(memory.histogram)[threadIdx.x];
  const uint32_t sum = counts.x + counts.y;
  const uint32_t through = WarpSumThrough(sum);
  if (lane == kWarp - 1) memory.warp_sums[warp] = through;
  __syncthreads();
  const uint32_t others = memory.warp_sums[lane];
  const uint32_t before = __reduce_add_sync(kAllLanes, lane < warp ? others : 0u) + through - sum;
  if (before < left && before + sum >= left) {
    const uint32_t highest = kBins - 1 - kThreadBins * threadIdx.x;
    memory.bin = before + counts.x >= left ? Bin{highest, before, counts.x}
                                           : Bin{highest - 1, before + counts.x, counts.y};
  }
  __syncthreads();
  return memory.bin;
}

// The candidate from which on they are taken, of more than `top_k`, which are all different: digit
// by digit, the first of which spreads the scores that there are over all bins, until few
// candidates share the threshold's digits.
template <int kItems>
__device__ Candidate ThresholdOf(const Words<kItems>& words, const Extent& extent, uint32_t top_k,
                                 BlockMemory& memory) {
  // The threshold is one of the `inside` that lie among the 2^shift from `lowest` on, of which the
  // `left` first are taken. No position's low word is 0, so `lowest` is not either: zeros stay out.
  Candidate lowest = static_cast<Candidate>(extent.lowest) << 32 | 1;
  int shift = 64 - __clz(static_cast<int>(extent.highest - extent.lowest));
  uint32_t left = top_k, inside = extent.count;
  while (inside != left && inside > kRanked && shift > 0) {
    const int next = max(0, shift - kDigitBits);
    const Candidate bins = Candidate{1} << (shift - next);
    reinterpret_cast<uint2*>(memory.histogram)[threadIdx.x] = uint2{0, 0};
    __syncthreads();
    words.ForEach([&](int, bool, Candidate word) {
      const Candidate digit = (word - lowest) >> next;
      if (word >= lowest && digit < bins) {
        atomicAdd(memory.histogram + (kBins - 1 - static_cast<int>(digit)), 1u);
      }
    });
    __syncthreads();
    const Bin bin = FindBin(left, memory);
    lowest += static_cast<Candidate>(bin.digit) << next;
    left -= bin.before;
    inside = bin.count;
    shift = next;
  }
  if (inside == left || shift == 0) return lowest;

  if (threadIdx.x == 0) {
    memory.num_ranked = 0;
    memory.threshold = lowest;
  }
  __syncthreads();
  words.ForEach([&](int, bool, Candidate word) {
    if (word < lowest || (shift < 64 && (word - lowest) >> shift != 0)) return;
    memory.ranked[atomicAdd(&memory.num_ranked, 1u)] = word;
  });
  __syncthreads();
  const uint32_t own = threadIdx.x / kRankers;
  const Candidate word = memory.ranked[min(own, inside - 1)];
  uint32_t greater = 0;
  for (uint32_t i = threadIdx.x % kRankers; i < inside; i += kRankers) {
    greater += memory.ranked[i] > word;
  }
#pragma unroll
  for (int width = kRankers / 2; width >= 1; width /= 2) {
    greater += __shfl_xor_sync(kAllLanes, greater, width);
  }
  if (own < inside && threadIdx.x % kRankers == 0 && greater == left - 1) memory.threshold = word;
  __syncthreads();
  return memory.threshold;
}

// Writes the taken candidates, rank after rank; returns how many they are.
template <int kItems>
__device__ int Compact(const Words<kItems>& words, Candidate threshold,
                       const MergeCandidatesArgs& args, Candidate* to, BlockMemory& memory) {
  const int lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp;
  const auto top_k = static_cast<uint32_t>(args.top_k);
  uint32_t own = 0;
  words.ForEach([&](int, bool, Candidate word) {
    own += __popc(__ballot_sync(kAllLanes, word >= threshold));
  });
  if (lane == 0) memory.warp_sums[warp] = own;
  __syncthreads();
  const uint32_t others = memory.warp_sums[lane];
  const uint32_t total = min(top_k, __reduce_add_sync(kAllLanes, others));
  uint32_t place = __reduce_add_sync(kAllLanes, lane < warp ? others : 0u);
  words.ForEach([&](int rank, bool first_of_rank, Candidate word) {
    if (first_of_rank && lane == 0) memory.begins[rank] = static_cast<int>(min(place, total));
    const uint32_t taken = __ballot_sync(kAllLanes, word >= threshold);
    const uint32_t at = place + __popc(taken & ((1u << lane) - 1));
    // No more than top_k are, unless candidates are the same.
    if (word >= threshold && at < top_k) to[at] = word;
    place += __popc(taken);
  });
  if (threadIdx.x == 0) memory.begins[args.num_ranks] = static_cast<int>(total);
  __syncthreads();
  return static_cast<int>(total);
}

// Lists of 2^round ranks each, ascending by position, become half as many: a candidate's place is
// that in its own list and the number of earlier ones in the other.
__device__ void MergePairs(const Candidate* from, Candidate* to, int count, int round,
                           int num_ranks, const BlockMemory& memory) {
  const int lists = (num_ranks + (1 << round) - 1) >> round;
  const auto begin_of = [&](int list) { return memory.begins[min(num_ranks, list << round)]; };
  for (int i = threadIdx.x; i < count; i += kThreads) {
    const Candidate word = from[i];
    int list = 0;
    for (int end = lists; end - list > 1;) {
      const int middle = (list + end) / 2;
      if (begin_of(middle) <= i) {
        list = middle;
      } else {
        end = middle;
      }
    }
    const int other = list ^ 1;
    const int first = other < lists ? begin_of(other) : 0;
    const int last = other < lists ? begin_of(other + 1) : 0;
    // Earlier positions have the greater low words.
    int low = first;
    for (int high = last; low < high;) {
      const int middle = low + (high - low) / 2;
      if (static_cast<uint32_t>(from[middle]) > static_cast<uint32_t>(word)) {
        low = middle + 1;
      } else {
        high = middle;
      }
    }
    to[i + low - (other > list ? first : last)] = word;
  }
}

// kShared: the taken candidates are ordered in the block's own memory, and not in the workspace.
template <int kItems, bool kShared>
__global__ void __launch_bounds__(kThreads, 1)
    MergeCandidatesKernel(const MergeCandidatesArgs args, const int rounds) {
  extern __shared__ __align__(16) Candidate dynamic[];
  __shared__ BlockMemory memory;
  const int64_t row = blockIdx.x;
  const Words<kItems> words(args, row);
  const Extent extent = ExtentOf(words, memory);
  const auto top_k = static_cast<uint32_t>(args.top_k);
  const Candidate threshold = extent.count <= top_k ? 1 : ThresholdOf(words, extent, top_k, memory);

  Candidate* const selected = args.selected + row * args.top_k;
  Candidate* const lists =
      kShared ? dynamic : static_cast<Candidate*>(args.workspace) + row * 2 * args.top_k;
  const int count = Compact(words, threshold, args, rounds == 0 ? selected : lists, memory);
  if (threadIdx.x == 0) args.counts[row] = count;
  for (int round = 0; round < rounds; ++round) {
    const Candidate* const from = lists + (round % 2) * args.top_k;
    // Two calls, so that the compiler knows whose memory is written.
    if (round == rounds - 1) {
      MergePairs(from, selected, count, round, args.num_ranks, memory);
    } else {
      MergePairs(from, lists + (1 - round % 2) * args.top_k, count, round, args.num_ranks, memory);
    }
    __syncthreads();
  }
}

bool IsShared(int num_ranks, int64_t top_k) { return num_ranks == 1 || top_k <= kSharedTopK; }

template <int kItems, bool kShared>
absl::Status LaunchMerge(const MergeCandidatesArgs& args, Stream stream) {
  const auto kernel = MergeCandidatesKernel<kItems, kShared>;
  const int rounds = std::bit_width(static_cast<unsigned>(args.num_ranks - 1));
  const int64_t bytes =
      kShared && rounds > 0 ? 2 * args.top_k * static_cast<int64_t>(sizeof(Candidate)) : 0;
  if constexpr (kShared) {
    // The same for every launch: ranks may be threads of one process.
    LONGSPAN_RETURN_IF_ERROR(
        ToStatus(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                      static_cast<int>(kMaxSharedBytes)),
                 "shared memory of the merge"));
  }
  kernel<<<BlocksOf(args.rows, 1), kThreads, bytes, stream>>>(args, rounds);
  return CheckLaunch("MergeCandidates");
}

// ---- Partials ----

constexpr int kPartialThreads = 128;

__device__ float WarpMax(float value) {
#pragma unroll
  for (int width = kWarp / 2; width > 0; width /= 2) {
    value = fmaxf(value, __shfl_xor_sync(kAllLanes, value, width));
  }
  return value;
}

// A warp merges the partials of a head of a row. A lane knows the weight of one part at a time, and
// has kVector numbers of the output.
template <typename Out, int kVector>
__global__ void __launch_bounds__(kPartialThreads) MergePartialsKernel(MergePartialsArgs args) {
  constexpr float kInfinity = std::numeric_limits<float>::infinity();
  const int64_t row =
      int64_t{blockIdx.x} * (kPartialThreads / kWarp) + threadIdx.x / kWarp;  // and head
  if (row >= args.rows * args.heads) return;                                  // a whole warp
  const int lane = threadIdx.x % kWarp;
  const float* const lse = args.lse + row;
  const auto lse_of = [&](int part) {
    return part < args.parts ? lse[part * args.part_stride] : -kInfinity;
  };
  float greatest = -kInfinity;  // NaN apart: it comes in with its weight
  for (int first = 0; first < args.parts; first += kWarp) {
    greatest = fmaxf(greatest, lse_of(first + lane));
  }
  greatest = WarpMax(greatest);
  const float shift = greatest > -kInfinity ? greatest : 0.0f;

  float total = 0;
  for (int64_t begin = 0; begin < args.head_dim; begin += kWarp * kVector) {
    const int64_t d = begin + lane * kVector;
    const bool present = d < args.head_dim;
    const float* const in = args.outputs + row * args.head_dim + (present ? d : 0);
    float sums[kVector] = {};
    total = 0;
    for (int first = 0; first < args.parts; first += kWarp) {
      const float weights = expf(lse_of(first + lane) - shift);
      const int count = min(kWarp, args.parts - first);
#pragma unroll 8
      for (int p = 0; p < count; ++p) {
        const float weight = __shfl_sync(kAllLanes, weights, p);
        float values[kVector];
        LoadFloats(in + (first + p) * args.part_stride, values);
        if (weight == 0) continue;  // whatever an empty part says
#pragma unroll
        for (int v = 0; v < kVector; ++v) sums[v] = fmaf(weight, values[v], sums[v]);
        total += weight;
      }
    }
    if (!present) continue;
    const float divisor = total == 0 ? 1.0f : total;
#pragma unroll
    for (float& sum : sums) sum /= divisor;
    StoreFloats(sums, static_cast<Out*>(args.output) + row * args.head_dim + d);
  }
  if (args.output_lse != nullptr && lane == 0) {
    args.output_lse[row] = total == 0 ? -kInfinity : shift + logf(total);
  }
}

}  // namespace

int64_t MergeCandidatesWorkspaceBytes(int num_ranks, int64_t rows, int64_t top_k) {
  return IsShared(num_ranks, top_k) ? 0
                                    : rows * 2 * top_k * static_cast<int64_t>(sizeof(Candidate));
}

absl::Status MergeCandidates(const MergeCandidatesArgs& args, Stream stream) {
  if (args.num_ranks < 1 || args.num_ranks > kMaxMergedRanks || args.top_k < 1 ||
      args.top_k > MaxMergedTopK(args.num_ranks)) {
    return absl::InvalidArgumentError(
        absl::StrCat("cannot merge ", args.num_ranks, " times ", args.top_k, " candidates"));
  }
  if (args.rows == 0) return absl::OkStatus();
  if (!IsShared(args.num_ranks, args.top_k)) {
    if (args.workspace == nullptr) return absl::InternalError("a merge without a workspace");
    return LaunchMerge<0, false>(args, stream);
  }
  const int64_t chunks = args.num_ranks * ((args.top_k + kWarp - 1) / kWarp);
  const int64_t items = (chunks + kWarps - 1) / kWarps;
  if (items <= 4) return LaunchMerge<4, true>(args, stream);
  if (items <= 8) return LaunchMerge<8, true>(args, stream);
  if (items <= 16) return LaunchMerge<16, true>(args, stream);
  return LaunchMerge<0, true>(args, stream);
}

absl::Status MergePartials(const MergePartialsArgs& args, Stream stream) {
  if (args.rows == 0 || args.heads == 0 || args.head_dim == 0) return absl::OkStatus();
  if (args.parts < 1) return absl::InvalidArgumentError("no partials to merge");
  return WithType(args.output_dtype, [&]<typename Out>() {
    constexpr int kVector = 4;
    const unsigned blocks = BlocksOf(args.rows * args.heads, kPartialThreads / kWarp);
    if (args.head_dim % kVector == 0 && args.part_stride % kVector == 0 &&
        IsAligned(args.outputs, kVector * sizeof(float)) &&
        IsAligned(args.output, kVector * sizeof(Out))) {
      MergePartialsKernel<Out, kVector><<<blocks, kPartialThreads, 0, stream>>>(args);
    } else {
      MergePartialsKernel<Out, 1><<<blocks, kPartialThreads, 0, stream>>>(args);
    }
    return CheckLaunch("MergePartials");
  });
}

}  // namespace longspan::cuda
