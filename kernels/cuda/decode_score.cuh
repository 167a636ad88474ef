#ifndef LONGSPAN_KERNELS_CUDA_DECODE_SCORE_CUH_
#define LONGSPAN_KERNELS_CUDA_DECODE_SCORE_CUH_

#include <cuda_runtime.h>

#include <cstdint>
#include <limits>

#include "kernels/cuda/decode_guess.cuh"
#include "kernels/cuda/decode_list.cuh"
#include "kernels/cuda/decode_row_keys.cuh"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/numbers.cuh"
#include "kernels/cuda/select.h"
#include "kernels/cuda/select_entries.cuh"
#include "kernels/cuda/select_lists.cuh"
#include "kernels/cuda/select_problem.cuh"
#include "kernels/cuda/sum_across.cuh"

// A decoded token's scores, and lists of those that its selection (select_decoded.cuh) probably
// takes: decode_guess.cuh says which these are.
namespace longspan::cuda::selection {

// Scores that a block holds at a time, beside those that proximity looks at.
constexpr int kPiece = 8192;
constexpr int kKeysAtOnce = 8;  // score keys that a thread reads before it uses any

// The selection's blocks take their places beside these, one on each multiprocessor, long before
// they can begin: launched later, they would crowd on those that are free first. So many registers
// leave room for them.
constexpr int kScoreThreads = 384;
constexpr int kScoreWarps = kScoreThreads / 32;
constexpr int kScoreRegisters = 112;

using ScoreSampling = DecodeSampling<kScoreWarps>;

struct ScoreMemory {
  SamplePlan plan;
  DecodeGuess guess;
  unsigned long long warp_sums[kScoreWarps];
  uint32_t marks[kPiece / 32];
  // Where a piece's scores go, and which of them.
  float* stored;
  int stored_begin, stored_end;
};

constexpr float kNan = std::numeric_limits<float>::quiet_NaN();

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
    DecodeState* state;

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
    // may use `scores` until they call this. The last warp, which mostly has a tile less than
    // others, guesses behind its tiles of the first piece.
    __device__ void Score(uint32_t first_entry, int count, float* shared_query, float* scores,
                          ScoreSampling* sampling, bool is_first, ScoreMemory& memory) const {
      Walk walk = WalkFrom(first_entry);
      Load next;
      if (walk.base < count) Start(&walk, count, &next);
      WaitForPredecessors();
      if (threadIdx.x == 0) memory.guess.row = __ldcg(&state->rows) + 1;
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
        WriteSums(base, load.in_middle, count, sums, scores, memory);
        if (sampling->posts > 0) {
          sampling->Add(BestOfWindows(load.in_middle, sums), memory.plan, state->samples);
        }
#pragma unroll
        for (float& sum : sums) sum = 0;
      }
      if (is_first && memory.plan.guesses && threadIdx.x / 32 == kScoreWarps - 1) {
        Guess(memory.plan, *state, &memory.guess);
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

    // Of the lane's scores those that are in the tile's windows, one of kWindowStride each.
    __device__ float BestOfWindows(uint32_t in_middle, const float (&sums)[kKeysAtOnce]) const {
      const int window = 2 * args.proximity + 1;
      float best = -std::numeric_limits<float>::infinity();
      ForOwnSums([&](int i, int key, int row) {
        if (row % kWindowStride < window && (in_middle >> key & 1) != 0)
          best = fmaxf(best, sums[i]);
      });
      return best;
    }

    // After SumAcross.
    static __device__ void WriteSums(int base, uint32_t in_middle, int count,
                                     const float (&sums)[kKeysAtOnce], float* scores,
                                     const ScoreMemory& memory) {
      ForOwnSums([&](int i, int key, int row) {
        const int at = base + row;
        if (at >= count) return;
        const float score = (in_middle >> key & 1) != 0 ? sums[i] : kNan;
        scores[at] = score;
        if (at >= memory.stored_begin && at < memory.stored_end) memory.stored[at] = score;
      });
    }

    // Calls `use` with the lane's sums after SumAcross, their keys, and those's rows of the tile.
    template <typename Use>
    static __device__ void ForOwnSums(Use&& use) {
      constexpr int kSums = kKeysAtOnce > kLanes ? kKeysAtOnce / kLanes : 1;
      constexpr int kCopies = kLanes > kKeysAtOnce ? kLanes / kKeysAtOnce : 1;
      const int in_group = threadIdx.x % kLanes, group = threadIdx.x % 32 / kLanes;
      if (in_group % kCopies != 0) return;
#pragma unroll
      for (int i = 0; i < kSums; ++i) {
        const int key = in_group / kCopies * kSums + i;
        use(i, key, key * kGroups + group);
      }
    }

    // The maxima of runs of 1, 2, 4, ... scores, until three of them cover a window of
    // 2 * proximity + 1. `spare` has the same size.
    __device__ const float* Spread(float* scores, float* spare, int count, int* run) const {
      for (*run = 1; 3 * *run < 2 * args.proximity + 1; *run *= 2) {
        for (int i = threadIdx.x; i < count; i += kScoreThreads) {
          spare[i] = i + *run < count ? fmaxf(scores[i], scores[i + *run]) : scores[i];
        }
        __syncthreads();
        float* const swap = scores;
        scores = spare;
        spare = swap;
      }
      return scores;
    }

    // Writes the slice's scores, and lists those that are probably wanted. `all`: of the row.
    __device__ void Fill(Slice slice, float* scratch, float* all, ScoreSampling* sampling,
                         DecodeListWriter* writer, ScoreMemory& memory) const {
      const int halo = args.proximity;
      float* const scores = scratch + args.dim;
      float* const spare = scores + kPiece + 2 * halo;
      for (int64_t from = slice.begin; from < slice.end; from += kPiece) {
        const int size = static_cast<int>(min(slice.end - from, int64_t{kPiece}));
        const int count = size + 2 * halo;
        if (threadIdx.x == 0) {  // a barrier follows before these are read
          memory.stored = all + (from - halo);
          memory.stored_begin = from == begin ? 0 : halo;
          memory.stored_end = from + size == end ? count : size + halo;
        }
        Score(static_cast<uint32_t>(from - halo), count, scratch, scores, sampling,
              from == slice.begin, memory);
        __syncthreads();
        int run = 1;
        const float* const spread = Spread(scores, spare, count, &run);
        const int window = 2 * halo + 1, middle = min(run, window - run), last = window - run;
        const auto bits_at = [&](int i) {
          return BitsOf(fmaxf(spread[i], fmaxf(spread[i + middle], spread[i + last])));
        };
        Mark(static_cast<uint32_t>(from), size, memory.guess.lowest, bits_at, memory.marks);
        writer->Add<kScoreWarps>(static_cast<uint32_t>(from), memory.marks, (size + 31) / 32,
                                 bits_at, memory.guess, state->histograms[memory.guess.row % 2],
                                 memory.warp_sums);
      }
    }

    // Marks entries from `from` on whose bits are not below `lowest`. It stays a loop, since its
    // instructions come from far away.
    template <typename BitsAt>
    __device__ void Mark(uint32_t from, int size, uint32_t lowest, BitsAt&& bits_at,
                         uint32_t* marks) const {
      const uint32_t step = kScoreThreads % Stride();
      const int lane = threadIdx.x % 32;
      uint32_t row = (from + threadIdx.x) % Stride();
#pragma unroll 1
      for (int first = threadIdx.x - lane; first < size; first += kScoreThreads) {
        const bool is_score = first + lane < size && InStripe(row);
        const uint32_t mark =
            __ballot_sync(0xffffffffu, is_score && bits_at(first + lane) >= lowest);
        if (lane == 0) marks[first / 32] = mark;
        row += step;
        if (row >= Stride()) row -= Stride();
      }
      __syncthreads();
    }
  };

  __device__ Row At(int row, DecodeState* state) const {
    const DecodeRow& sequence = args.sequences[row];
    return {DecodeRowKeys(args, sequence),
            sequence.score_pages != nullptr ? sequence.score_pages : sequence.pages,
            args.queries + row * args.dim, state};
  }
};

// One row a team. Keys of a middle were stored in earlier steps, so that reading them need not wait
// for the launches before this one; the query must.
template <typename T, int kLanes, bool kWhole>
__global__ void __maxnreg__(kScoreRegisters)
    DecodeScoreKernel(const __grid_constant__ ScoredKeys<T, kLanes, kWhole> source,
                      const __grid_constant__ Problem problem) {
  extern __shared__ __align__(16) float dynamic[];
  __shared__ ScoreMemory memory;
  LetSuccessorsStart();
  const Teams& teams = problem.teams;
  const int team = teams.Team(), member = teams.Member();
  DecodeState* const state = &problem.states[team].decode;
  const auto row = source.At(team, state);
  const Slice slice = SliceOfMember(row.begin, row.end, teams);
  if (row.end + source.args.proximity > int64_t{teams.size} * problem.slice) {
    __trap();  // a row has outgrown what the host said
  }
  const int64_t entries = row.end - row.begin;
  constexpr int kTileKeys = ScoredKeys<T, kLanes, kWhole>::kWarpKeys;
  // The same for all blocks.
  const auto first_piece =
      static_cast<int>(min((entries + teams.size - 1) / teams.size, int64_t{kPiece}));
  ScoreSampling sampling(problem, entries, first_piece / (kScoreWarps * kTileKeys),
                         max(1, kTileKeys / kWindowStride), source.args.proximity, &memory.plan);
  DecodeListWriter writer = {problem};
  if (threadIdx.x == 0) memory.guess = problem.HasDecodeLists() ? kListsAllGuess : kNothingGuess;
  row.Fill(slice, dynamic, problem.ScoresOf(team), &sampling, &writer, memory);
  WaitForPredecessors();  // if there was nothing to fill
  if (slice.size() == 0) {
    if (threadIdx.x == 0) memory.guess.row = __ldcg(&state->rows) + 1;
    __syncthreads();
  }
  writer.Post(memory.guess, state);
}

}  // namespace longspan::cuda::selection

#endif  // LONGSPAN_KERNELS_CUDA_DECODE_SCORE_CUH_
