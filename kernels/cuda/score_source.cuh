#ifndef LONGSPAN_KERNELS_CUDA_SCORE_SOURCE_CUH_
#define LONGSPAN_KERNELS_CUDA_SCORE_SOURCE_CUH_

#include <cuda_runtime.h>

#include <cstdint>
#include <limits>

#include "kernels/cuda/numbers.cuh"
#include "kernels/cuda/select.h"
#include "kernels/cuda/select_entries.cuh"
#include "kernels/cuda/sum_across.cuh"

// Where a selection's scores come from.
namespace longspan::cuda::selection {

// Scores that a block holds at a time, beside those that proximity looks at.
constexpr int kPiece = 8192;
constexpr int kKeysAtOnce = 8;  // score keys that a thread reads before it uses any

constexpr float kNan = std::numeric_limits<float>::quiet_NaN();

__device__ float MaxScore(float a, float b) { return a > b || b != b ? a : b; }

struct GivenScores {
  const float* scores;
  int64_t row_stride;
  int64_t count;

  struct Row {
    const float* scores;
    int64_t begin, end;

    __device__ int64_t Position(int64_t entry) const { return entry; }
    // Writes the bits of the slice's entries.
    __device__ void Fill(Slice slice, float*, uint32_t* bits) const {
      constexpr int kAtOnce = 16;  // loads under way
      const float* const from = scores + slice.begin;
      for (int i = threadIdx.x; i < slice.size(); i += kAtOnce * kThreads) {
        float values[kAtOnce];
#pragma unroll
        for (int j = 0; j < kAtOnce; ++j) {
          const int at = i + j * kThreads;
          values[j] = at < slice.size() ? __ldg(from + at) : 0.0f;
        }
#pragma unroll
        for (int j = 0; j < kAtOnce; ++j) {
          const int at = i + j * kThreads;
          if (at < slice.size()) bits[at] = BitsOf(values[j]);
        }
      }
      __syncthreads();
    }
  };
  __device__ Row At(int row) const { return {scores + row * row_stride, 0, count}; }
};

// Entries of a row are its pages' score keys, halos included, through the pages that hold any of
// the middle; those of the stripes are scores.
template <typename T, int kLanes>
struct ScoredKeys {
  DecodeSelectArgs args;

  static constexpr int kChunk = 16 / sizeof(T);  // numbers of one load
  static constexpr int kGroups = 32 / kLanes;    // keys of one load of a warp
  static constexpr int kWarpKeys = kGroups * kKeysAtOnce;

  struct Row {
    const DecodeSelectArgs& args;
    const std::byte* const* pages;
    const float* query;
    uint32_t first, last;  // the middle, in positions
    int64_t begin, end;    // entries; below 2^32, as positions are

    __device__ uint32_t Stride() const { return args.geometry.stripe_tokens + 2 * args.halo; }
    __device__ int64_t Entry(int64_t local) const {
      const int64_t page = local / args.geometry.stripe_tokens;
      return page * Stride() + args.halo + local % args.geometry.stripe_tokens;
    }
    // Of any row of a page: that of a halo is its neighbour's.
    __device__ uint32_t PositionAt(uint32_t page, uint32_t row) const {
      return (page * args.geometry.num_ranks + args.geometry.rank) * args.geometry.stripe_tokens +
             row - args.halo;
    }
    __device__ uint32_t Position(uint32_t entry) const {
      return PositionAt(entry / Stride(), entry % Stride());
    }
    __device__ bool InStripe(uint32_t entry) const {
      return entry % Stride() - args.halo < static_cast<uint32_t>(args.geometry.stripe_tokens);
    }

    // What a warp reads at a time: one chunk of kWarpKeys keys, the tile's `chunk`-th.
    struct Load {
      int base = 0;            // of the tile's first key, among the entries of Score
      int chunk = 0;           // of this lane
      uint32_t in_middle = 0;  // bit i: whether key i of this lane counts
      uint4 raw[kKeysAtOnce];
    };

    // scores[i]: of entry first_entry + i, NaN if it is not of the middle. A load is under way
    // while the one before it is worked on, the first while the query is read. Threads of the block
    // may use `scores` until they call this.
    __device__ void Score(uint32_t first_entry, int count, float* shared_query,
                          float* scores) const {
      const int in_group = threadIdx.x % kLanes;
      const int chunks = static_cast<int>(args.dim) / kChunk;
      const T* keys[kKeysAtOnce];
      Load next;
      next.base = threadIdx.x / 32 * kWarpKeys;
      next.chunk = in_group;
      Start(first_entry, count, chunks, keys, &next);
      for (int i = threadIdx.x; i < args.dim; i += kThreads) shared_query[i] = query[i];
      __syncthreads();
      float sums[kKeysAtOnce] = {};
      while (next.base < count) {
        const Load load = next;
        next.chunk += kLanes;
        const bool is_last = next.chunk - in_group >= chunks;
        if (is_last) {
          next.base += kWarps * kWarpKeys;
          next.chunk = in_group;
        }
        Start(first_entry, count, chunks, keys, &next);
        if (load.chunk < chunks) AddProducts(load.raw, shared_query + load.chunk * kChunk, sums);
        if (!is_last) continue;
        SumAcross<kKeysAtOnce, kLanes>(sums);
        WriteSums(load, count, sums, scores);
#pragma unroll
        for (float& sum : sums) sum = 0;
      }
    }

    // Starts to read what load->base and load->chunk say, if there is anything.
    __device__ void Start(uint32_t first_entry, int count, int chunks,
                          const T* (&keys)[kKeysAtOnce], Load* load) const {
      if (load->base >= count) return;
      if (load->chunk == static_cast<int>(threadIdx.x % kLanes)) {
        load->in_middle = Find(first_entry, load->base, count, keys);
      }
#pragma unroll
      for (int i = 0; i < kKeysAtOnce; ++i) {
        load->raw[i] = uint4{0, 0, 0, 0};
        if ((load->in_middle >> i & 1) != 0 && load->chunk < chunks) {
          load->raw[i] = __ldcs(reinterpret_cast<const uint4*>(keys[i] + load->chunk * kChunk));
        }
      }
    }

    // This lane's score keys of the tile that begins at `base`, as far as they are below `count`
    // and of the middle: bit i says so of keys[i].
    __device__ uint32_t Find(uint32_t first_entry, int base, int count,
                             const T* (&keys)[kKeysAtOnce]) const {
      const uint32_t stride = Stride();
      const int group = threadIdx.x % 32 / kLanes;
      uint32_t page = (first_entry + base) / stride;
      uint32_t row = (first_entry + base) % stride;
      const uint32_t begin = PositionAt(page, row) - first;
      // Most tiles lie within one page and the middle.
      if (row + kWarpKeys <= stride && base + kWarpKeys <= count && begin < last - first &&
          begin + kWarpKeys <= last - first) {
        const T* const from = reinterpret_cast<const T*>(pages[page] + args.score_offset) +
                              int64_t{row + group} * args.dim;
#pragma unroll
        for (int i = 0; i < kKeysAtOnce; ++i) keys[i] = from + i * kGroups * args.dim;
        return (1u << kKeysAtOnce) - 1;
      }
      uint32_t in_middle = 0;
      row += group;
#pragma unroll
      for (int i = 0; i < kKeysAtOnce; ++i, row += kGroups) {
        for (; row >= stride; row -= stride) ++page;
        // Below zero, before the first stripe, it wraps round and is in no middle.
        const int at = base + group + i * kGroups;
        if (at >= count || PositionAt(page, row) - first >= last - first) continue;
        in_middle |= 1u << i;
        keys[i] =
            reinterpret_cast<const T*>(pages[page] + args.score_offset) + int64_t{row} * args.dim;
      }
      return in_middle;
    }

    static __device__ void AddProducts(const uint4 (&raw)[kKeysAtOnce], const float* query_chunk,
                                       float (&sums)[kKeysAtOnce]) {
      float q[kChunk];
      if constexpr (kIsFp8<T>) {
        // Twice as many numbers for the same bytes of keys: one by one they would be half of all
        // that goes through the first-level cache.
#pragma unroll
        for (int d = 0; d < kChunk; d += 4) {
          float part[4];
          LoadFloats(query_chunk + d, part);
#pragma unroll
          for (int e = 0; e < 4; ++e) q[d + e] = part[e];
        }
      } else {
#pragma unroll
        for (int d = 0; d < kChunk; ++d) q[d] = query_chunk[d];
      }
#pragma unroll
      for (int i = 0; i < kKeysAtOnce; ++i) {
        float k[kChunk];
        LoadFloats(reinterpret_cast<const T*>(&raw[i]), k);
#pragma unroll
        for (int d = 0; d < kChunk; ++d) sums[i] = fmaf(q[d], k[d], sums[i]);
      }
    }

    // After SumAcross.
    static __device__ void WriteSums(const Load& load, int count, const float (&sums)[kKeysAtOnce],
                                     float* scores) {
      constexpr int kSums = kKeysAtOnce > kLanes ? kKeysAtOnce / kLanes : 1;
      constexpr int kCopies = kLanes > kKeysAtOnce ? kLanes / kKeysAtOnce : 1;
      const int in_group = threadIdx.x % kLanes, group = threadIdx.x % 32 / kLanes;
      if (in_group % kCopies != 0) return;
#pragma unroll
      for (int i = 0; i < kSums; ++i) {
        const int key = in_group / kCopies * kSums + i;
        const int at = load.base + key * kGroups + group;
        if (at < count) scores[at] = (load.in_middle >> key & 1) != 0 ? sums[i] : kNan;
      }
    }

    // The maxima of windows of 2 * proximity + 1 scores: scores[i] is that which begins at i. Runs
    // of 1, 2, 4, ... scores, until two of them cover a window. `spare` has the same size.
    __device__ const float* Spread(float* scores, float* spare, int count, int* run) const {
      const int window = 2 * args.proximity + 1;
      for (*run = 1; 2 * *run <= window; *run *= 2) {
        for (int i = threadIdx.x; i < count; i += kThreads) {
          spare[i] = i + *run < count ? MaxScore(scores[i], scores[i + *run]) : scores[i];
        }
        __syncthreads();
        float* const swap = scores;
        scores = spare;
        spare = swap;
      }
      return scores;
    }

    __device__ void Fill(Slice slice, float* scratch, uint32_t* bits) const {
      const int halo = args.proximity;
      float* const shared_query = scratch;
      float* const scores = scratch + args.dim;
      float* const spare = scores + kPiece + 2 * halo;
      for (int64_t from = slice.begin; from < slice.end; from += kPiece) {
        const int size = static_cast<int>(min(slice.end - from, int64_t{kPiece}));
        Score(static_cast<uint32_t>(from - halo), size + 2 * halo, shared_query, scores);
        __syncthreads();
        int run = 1;
        const float* const spread = Spread(scores, spare, size + 2 * halo, &run);
        for (int i = threadIdx.x; i < size; i += kThreads) {
          const float best = MaxScore(spread[i], spread[i + 2 * halo + 1 - run]);
          bits[from - slice.begin + i] =
              InStripe(static_cast<uint32_t>(from + i)) ? BitsOf(best) : kNotAScore;
        }
      }
      __syncthreads();
    }
  };

  __device__ Row At(int row) const {
    const DecodeRow& sequence = args.sequences[row];
    const int64_t first = args.initial_tokens;
    const int64_t last = max(first, sequence.position - args.local_tokens);
    Row at{args,
           sequence.score_pages != nullptr ? sequence.score_pages : sequence.pages,
           args.queries + row * args.dim,
           static_cast<uint32_t>(first),
           static_cast<uint32_t>(last),
           0,
           0};
    const int64_t from = args.geometry.OwnedBefore(first);
    const int64_t to = args.geometry.OwnedBefore(last);
    if (from < to) {
      at.begin = at.Entry(from);
      at.end = at.Entry(to - 1) + 1;
    }
    return at;
  }
};

}  // namespace longspan::cuda::selection

#endif  // LONGSPAN_KERNELS_CUDA_SCORE_SOURCE_CUH_
