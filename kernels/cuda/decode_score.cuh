#ifndef LONGSPAN_KERNELS_CUDA_DECODE_SCORE_CUH_
#define LONGSPAN_KERNELS_CUDA_DECODE_SCORE_CUH_

#include <cuda_runtime.h>

#include <cstdint>
#include <limits>

#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/numbers.cuh"
#include "kernels/cuda/score_source.cuh"
#include "kernels/cuda/select.h"
#include "kernels/cuda/select_entries.cuh"
#include "kernels/cuda/select_problem.cuh"
#include "kernels/cuda/sum_across.cuh"

// A decoded token's scores: what a selection (radix_select.cuh) finds in DecodeScores.
namespace longspan::cuda::selection {

// Scores that a block holds at a time, beside those that proximity looks at.
constexpr int kPiece = 8192;
constexpr int kKeysAtOnce = 8;  // score keys that a thread reads before it uses any

// The selection's blocks take their places beside these, one on each multiprocessor, long before
// they can begin: launched later, they would crowd on those that are free first. There are
// registers for that where these take no more than 112, as bfloat16 and fp8 do whose rows are of 8
// or 16 loads; others begin when these end. (A bound of more threads would make it spill.)
constexpr int kScoreThreads = 384;
constexpr int kScoreWarps = kScoreThreads / 32;
constexpr int kBoundThreads = 512;

constexpr float kNan = std::numeric_limits<float>::quiet_NaN();

__device__ float MaxScore(float a, float b) { return a > b || b != b ? a : b; }

// kLanes lanes share a key; if kWhole, one load each is all of it.
template <typename T, int kLanes, bool kWhole>
struct ScoredKeys {
  DecodeSelectArgs args;

  static constexpr int kChunk = 16 / sizeof(T);  // numbers of one load
  static constexpr int kGroups = 32 / kLanes;    // keys of one load of a warp
  static constexpr int kWarpKeys = kGroups * kKeysAtOnce;

  // The rows of a page's keys that are of the middle.
  struct PageRows {
    const T* keys;  // of row 0
    uint32_t page;
    uint32_t begin, end;
  };

  // What a warp reads at a time: one chunk of kWarpKeys keys.
  struct Load {
    uint32_t in_middle;  // bit i: whether key i of this lane counts
    uint4 raw[kKeysAtOnce];
  };

  // A warp's walk through chunks of tiles of kWarpKeys entries.
  struct Walk {
    int base;            // of the tile, among the entries of Score
    uint32_t page, row;  // of its first key
    int chunk;           // of this lane
    PageRows rows;       // of the page
  };

  struct Row : DecodeRowKeys {
    const std::byte* const* pages;
    const float* query;

    __device__ int chunks() const { return kWhole ? kLanes : static_cast<int>(args.dim) / kChunk; }
    __device__ uint32_t dim() const {
      return kWhole ? kLanes * kChunk : static_cast<uint32_t>(args.dim);
    }

    __device__ PageRows RowsOf(uint32_t page) const {
      const int64_t stripe = args.geometry.stripe_tokens;
      const int64_t start =
          (int64_t{page} * args.geometry.num_ranks + args.geometry.rank) * stripe - args.halo;
      const int64_t stride = Stride();
      return {reinterpret_cast<const T*>(pages[page] + args.score_offset), page,
              static_cast<uint32_t>(min(max(first - start, int64_t{0}), stride)),
              static_cast<uint32_t>(min(max(last - start, int64_t{0}), stride))};
    }

    // scores[i]: of entry first_entry + i, NaN if it is not of the middle. A load is under way
    // while the one before it is worked on, the first while the query is read. Threads of the block
    // may use `scores` until they call this.
    __device__ void Score(uint32_t first_entry, int count, float* shared_query,
                          float* scores) const {
      Walk walk = WalkFrom(first_entry);
      Load next;
      if (walk.base < count) Start(&walk, count, &next);
      WaitForPredecessors();
      for (int i = threadIdx.x; i < args.dim; i += kScoreThreads) shared_query[i] = query[i];
      __syncthreads();
      float sums[kKeysAtOnce] = {};
      while (walk.base < count) {
        const Load load = next;
        const int base = walk.base, chunk = walk.chunk;
        const bool is_last = Advance(&walk);
        if (walk.base < count) Start(&walk, count, &next);
        if (chunk < chunks()) AddProducts(load.raw, shared_query + chunk * kChunk, sums);
        if (!is_last) continue;
        SumAcross<kKeysAtOnce, kLanes>(sums);
        WriteSums(base, load.in_middle, count, sums, scores);
#pragma unroll
        for (float& sum : sums) sum = 0;
      }
    }

    __device__ Walk WalkFrom(uint32_t first_entry) const {
      const int base = static_cast<int>(threadIdx.x / 32) * kWarpKeys;
      const uint32_t page = (first_entry + base) / Stride();
      return {base, page, (first_entry + base) - page * Stride(),
              static_cast<int>(threadIdx.x % kLanes), PageRows{nullptr, ~page, 0, 0}};
    }

    // Returns whether the chunk was its tile's last.
    __device__ bool Advance(Walk* walk) const {
      walk->chunk += kLanes;
      if (walk->chunk - static_cast<int>(threadIdx.x % kLanes) < chunks()) return false;
      walk->chunk = threadIdx.x % kLanes;
      walk->base += kScoreWarps * kWarpKeys;
      walk->row += kScoreWarps * kWarpKeys;
      for (; walk->row >= Stride(); walk->row -= Stride()) ++walk->page;
      return true;
    }

    // Starts to read a chunk of a tile that begins below `count`.
    __device__ void Start(Walk* walk_at, int count, Load* load) const {
      if (walk_at->rows.page != walk_at->page) walk_at->rows = RowsOf(walk_at->page);
      const Walk& walk = *walk_at;
      const uint32_t group = threadIdx.x % 32 / kLanes;
      const bool has_chunk = kWhole || walk.chunk < chunks();
      const auto read = [&](const T* keys, uint32_t row) {
        return __ldcs(reinterpret_cast<const uint4*>(keys + int64_t{row} * dim()) + walk.chunk);
      };
      // Most tiles lie within one page and the middle.
      if (walk.row >= walk.rows.begin && walk.row + kWarpKeys <= walk.rows.end &&
          walk.base + kWarpKeys <= count) {
        load->in_middle = (1u << kKeysAtOnce) - 1;
        if (!has_chunk) return;
        const T* const keys = walk.rows.keys + int64_t{walk.row + group} * dim();
#pragma unroll
        for (int i = 0; i < kKeysAtOnce; ++i) load->raw[i] = read(keys, i * kGroups);
        return;
      }
      load->in_middle = 0;
#pragma unroll
      for (int i = 0; i < kKeysAtOnce; ++i) {
        load->raw[i] = uint4{0, 0, 0, 0};
        const uint32_t at = group + i * kGroups;
        if (walk.base + static_cast<int>(at) >= count) continue;
        uint32_t page = walk.page, row = walk.row + at;
        for (; row >= Stride(); row -= Stride()) ++page;
        const PageRows rows = page == walk.page ? walk.rows : RowsOf(page);
        if (row < rows.begin || row >= rows.end) continue;
        load->in_middle |= 1u << i;
        if (has_chunk) load->raw[i] = read(rows.keys, row);
      }
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
    static __device__ void WriteSums(int base, uint32_t in_middle, int count,
                                     const float (&sums)[kKeysAtOnce], float* scores) {
      constexpr int kSums = kKeysAtOnce > kLanes ? kKeysAtOnce / kLanes : 1;
      constexpr int kCopies = kLanes > kKeysAtOnce ? kLanes / kKeysAtOnce : 1;
      const int in_group = threadIdx.x % kLanes, group = threadIdx.x % 32 / kLanes;
      if (in_group % kCopies != 0) return;
#pragma unroll
      for (int i = 0; i < kSums; ++i) {
        const int key = in_group / kCopies * kSums + i;
        const int at = base + key * kGroups + group;
        if (at < count) scores[at] = (in_middle >> key & 1) != 0 ? sums[i] : kNan;
      }
    }

    // The maxima of windows of 2 * proximity + 1 scores: scores[i] is that which begins at i. Runs
    // of 1, 2, 4, ... scores, until two of them cover a window. `spare` has the same size.
    __device__ const float* Spread(float* scores, float* spare, int count, int* run) const {
      const int window = 2 * args.proximity + 1;
      for (*run = 1; 2 * *run <= window; *run *= 2) {
        for (int i = threadIdx.x; i < count; i += kScoreThreads) {
          spare[i] = i + *run < count ? MaxScore(scores[i], scores[i + *run]) : scores[i];
        }
        __syncthreads();
        float* const swap = scores;
        scores = spare;
        spare = swap;
      }
      return scores;
    }

    // Writes the bits of the slice's entries. Returns where they can be read again: in shared
    // memory, if one piece is all.
    __device__ const uint32_t* Fill(Slice slice, float* scratch, uint32_t* bits) const {
      const int halo = args.proximity;
      float* const shared_query = scratch;
      float* const scores = scratch + args.dim;
      float* const spare = scores + kPiece + 2 * halo;
      const uint32_t* again = bits;
      for (int64_t from = slice.begin; from < slice.end; from += kPiece) {
        const int size = static_cast<int>(min(slice.end - from, int64_t{kPiece}));
        Score(static_cast<uint32_t>(from - halo), size + 2 * halo, shared_query, scores);
        __syncthreads();
        int run = 1;
        const float* const spread = Spread(scores, spare, size + 2 * halo, &run);
        auto* const kept = reinterpret_cast<uint32_t*>(spread == scores ? spare : scores);
        const uint32_t step = kScoreThreads % Stride();
        uint32_t row = (static_cast<uint32_t>(from) + threadIdx.x) % Stride();
        for (int i = threadIdx.x; i < size; i += kScoreThreads) {
          const float best = MaxScore(spread[i], spread[i + 2 * halo + 1 - run]);
          const uint32_t own = InStripe(row) ? BitsOf(best) : kNotAScore;
          bits[from - slice.begin + i] = own;
          kept[i] = own;
          row += step;
          if (row >= Stride()) row -= Stride();
        }
        if (size == slice.size()) again = kept;
      }
      __syncthreads();
      return again;
    }
  };

  __device__ Row At(int row) const {
    const DecodeRow& sequence = args.sequences[row];
    return {DecodeRowKeys(args, sequence),
            sequence.score_pages != nullptr ? sequence.score_pages : sequence.pages,
            args.queries + row * args.dim};
  }
};

// One row a team. Keys of a middle were stored in earlier steps, so that reading them need not wait
// for the launches before this one; the query must.
template <typename T, int kLanes, bool kWhole>
__global__ void __launch_bounds__(kBoundThreads)
    DecodeScoreKernel(const __grid_constant__ ScoredKeys<T, kLanes, kWhole> source,
                      const __grid_constant__ Problem problem) {
  extern __shared__ __align__(16) float dynamic[];
  __shared__ uint32_t samples[kSamples];
  LetSuccessorsStart();
  const Teams& teams = problem.teams;
  const int team = teams.Team(), member = teams.Member();
  const auto row = source.At(team);
  const Slice slice = SliceOfMember(row.begin, row.end, teams);
  if (slice.size() > problem.slice) __trap();  // a row has outgrown what the host said
  uint32_t* const bits = problem.BitsOf(team, member);
  if (threadIdx.x < kSamples) samples[threadIdx.x] = 0;
  const uint32_t* const again = row.Fill(slice, dynamic, bits);
  WaitForPredecessors();  // if there was nothing to fill
  const int64_t entries = row.end - row.begin;
  if (!problem.IsShort(entries) || problem.ListsAll(entries)) return;
  PostSamples<kScoreThreads>(
      again, slice.size(), SamplingOf(problem, entries, problem.states[team].samples[0]), samples);
}

}  // namespace longspan::cuda::selection

#endif  // LONGSPAN_KERNELS_CUDA_DECODE_SCORE_CUH_
