#ifndef LONGSPAN_KERNELS_CUDA_PREFILL_SCORE_JOBS_CUH_
#define LONGSPAN_KERNELS_CUDA_PREFILL_SCORE_JOBS_CUH_

#include <cuda_runtime.h>

#include <cstdint>

#include "kernels/cuda/prefill_score.h"

// What the scoring kernels have in common: where score keys lie, and who computes which tiles.
namespace longspan::cuda::scoring {

constexpr int kPanelBytes = 128;  // of a row: what lies together in shared memory, swizzled
constexpr int kChunkBytes = 16;
constexpr int kPanelChunks = kPanelBytes / kChunkBytes;

// Where chunk `chunk` of row `row` of a panel lies: 8 rows of the same chunk are in all banks.
__device__ __forceinline__ int Swizzled(int row, int chunk) {
  return row * kPanelBytes + (chunk ^ row % 8) * kChunkBytes;
}

// Order-preserving bits; 0 for NaN, which so never wins.
__device__ __forceinline__ uint32_t OrderedBits(float value) {
  if (value != value) return 0;
  const uint32_t bits = __float_as_uint(value + 0.0f);
  return (bits & 0x80000000u) != 0 ? ~bits : bits | 0x80000000u;
}

__device__ __forceinline__ float FromOrderedBits(uint32_t ordered) {
  if (ordered == 0) return __uint_as_float(0x7fffffff);
  return __uint_as_float((ordered & 0x80000000u) != 0 ? ordered & 0x7fffffffu : ~ordered);
}

// *to = max(*to, value), neither of them NaN. Floats of one sign are ordered as integers are.
__device__ __forceinline__ void AtomicMax(float* to, float value) {
  const uint32_t bits = __float_as_uint(value + 0.0f);
  if ((bits & 0x80000000u) != 0) {
    atomicMin(reinterpret_cast<unsigned*>(to), bits);
  } else {
    atomicMax(reinterpret_cast<int*>(to), static_cast<int>(bits));
  }
}

struct EntryRange {
  int64_t begin = 0, end = 0;
};

// The score keys to look at: entries count the rows of the hull's pages, halos included, from one
// halo before the hull's first own position to one behind its last. Positions fit 32 bits, whose
// divisions are fast; those before 0, of halos, wrap round and are in no middle.
struct Entries {
  const std::byte* const* pages = nullptr;  // from the hull's first on
  int64_t offset = 0;                       // bytes, of a page's first row
  int64_t row_bytes = 0;
  uint32_t stripe = 1, halo = 0;
  uint32_t page_rows = 1;                   // of both
  uint32_t round = 1;                       // positions from one page to the next
  uint32_t rank_begin = 0;                  // first own position
  uint32_t local_begin = 0, local_end = 0;  // own positions of the hull
  uint32_t first_page = 0, first_row = 0;   // of entry 0
  uint32_t count = 0;

  LONGSPAN_HOST_DEVICE uint32_t EntryOf(uint32_t local) const {
    return (local / stripe - first_page) * page_rows + halo + local % stripe - first_row;
  }
  // As ShardGeometry has it, but for what is not of the hull.
  __device__ uint32_t OwnedBefore(int64_t position) const {
    const auto p = static_cast<uint32_t>(position);
    const uint32_t rest = p % round;
    const uint32_t partial = rest < rank_begin ? 0 : min(rest - rank_begin, stripe);
    return min(max(p / round * stripe + partial, local_begin), local_end);
  }
  // Those of the middle's own positions and of `margin` rows on either side, at most a halo.
  __device__ EntryRange OfMiddle(Range middle, uint32_t margin) const {
    const uint32_t begin = OwnedBefore(middle.begin), end = OwnedBefore(middle.end);
    if (begin >= end) return {};
    return {EntryOf(begin) - margin, EntryOf(end - 1) + 1 + margin};
  }

  struct Place {
    uint32_t page, row;
  };
  __device__ Place At(uint32_t entry) const {
    return {(entry + first_row) / page_rows, (entry + first_row) % page_rows};
  }
  __device__ uint32_t Position(Place at) const {
    return (first_page + at.page) * round + rank_begin + at.row - halo;
  }
  __device__ const std::byte* Row(Place at) const {
    return pages[at.page] + offset + at.row * row_bytes;
  }
  // Whether `rows` entries from this one lie one behind the other.
  __device__ bool AreTogether(uint32_t entry, Place at, uint32_t rows) const {
    return entry + rows <= count && at.row + rows <= page_rows;
  }
  // Whether all of `rows` entries from this one are own positions of the middle.
  __device__ bool AllCount(uint32_t entry, uint32_t rows, Range middle) const {
    const Place at = At(entry);
    const uint32_t own_row = at.row - halo;  // huge before the stripe
    const int64_t position = Position(at);
    return entry + rows <= count && own_row < stripe && own_row + rows <= stripe &&
           position >= middle.begin && position + rows <= middle.end;
  }
  // Whether the entry is an own position of the middle.
  __device__ bool Counts(uint32_t entry, Range middle) const {
    const Place at = At(entry);
    const int64_t position = Position(at);
    return entry < count && at.row - halo < stripe && position >= middle.begin &&
           position < middle.end;
  }
};

struct Problem {
  Entries keys;
  const std::byte* queries = nullptr;
  const ScoredBlock* blocks = nullptr;
  int num_blocks = 0;
  int query_tiles = 0;  // of a block, in pass one
  int key_tiles = 0;
  int splits = 1;           // of the key tiles, in pass one
  float* maxima = nullptr;  // written in pass one, read in pass two
  float* best = nullptr;    // pass two: [num_blocks, best_stride], one of each entry that the
  int64_t best_stride = 0;  // block's middle needs
  int64_t row_bytes = 0;    // of a query, and of a key as it is multiplied

  __device__ const std::byte* Query(const ScoredBlock& block, int64_t query) const {
    return queries + (block.first_query + query) * row_bytes;
  }
  // NaN, so that it counts nowhere, for a row behind the block's last query.
  __device__ float Maximum(const ScoredBlock& block, int64_t query) const {
    return query < block.queries ? __ldg(maxima + block.first_query + query)
                                 : __uint_as_float(0x7fffffff);
  }
};

// One tile that stays, and a run of tiles that it meets.
struct Job {
  ScoredBlock block;
  int block_index = 0;
  int64_t fixed = 0;         // the first row of the tile that stays: query of the block, or entry
  int begin = 0, end = 0;    // the tiles that it meets
  bool is_new_tile = false;  // the job before had another tile
};

// The jobs of a thread block. Pass one: a tile of queries stays and meets a split of the key
// tiles. Thread blocks that run at the same time read the same keys.
template <bool kMaxima, int kFixedRows, int kMovingRows>
class Jobs {
 public:
  __device__ explicit Jobs(const Problem& problem)
      : problem_(problem), next_(blockIdx.x), end_(Groups() * problem.splits) {}

  __device__ bool Next(Job* job) {
    for (; next_ < end_; next_ += gridDim.x) {
      const auto group = static_cast<int>(next_ % Groups());
      const int64_t split = next_ / Groups();
      job->block_index = group / problem_.query_tiles;
      job->block = problem_.blocks[job->block_index];
      job->fixed = int64_t{group % problem_.query_tiles} * kFixedRows;
      if (job->fixed >= job->block.queries) continue;
      const EntryRange entries = problem_.keys.OfMiddle(job->block.middle, 0);
      const int64_t begin = split * problem_.key_tiles / problem_.splits;
      const int64_t end = (split + 1) * problem_.key_tiles / problem_.splits;
      job->begin = static_cast<int>(max(begin, entries.begin / kMovingRows));
      job->end = static_cast<int>(min(end, (entries.end + kMovingRows - 1) / kMovingRows));
      if (job->begin >= job->end) continue;
      job->is_new_tile = true;
      next_ += gridDim.x;
      return true;
    }
    return false;
  }

 private:
  __device__ int64_t Groups() const { return int64_t{problem_.num_blocks} * problem_.query_tiles; }

  const Problem& problem_;
  int64_t next_, end_;
};

// Pass two: a tile of keys stays and meets all queries of a block, then of the next block.
template <int kFixedRows, int kMovingRows>
class Jobs<false, kFixedRows, kMovingRows> {
 public:
  __device__ explicit Jobs(const Problem& problem) : problem_(problem) {
    const int64_t units = int64_t{problem.key_tiles} * problem.num_blocks;
    const int64_t begin = units * blockIdx.x / gridDim.x;
    left_ = units * (blockIdx.x + 1) / gridDim.x - begin;
    tile_ = begin / problem.num_blocks;
    block_ = static_cast<int>(begin % problem.num_blocks);
  }

  __device__ bool Next(Job* job) {
    while (left_ > 0) {
      const int64_t tile = tile_;
      job->block_index = block_;
      --left_;
      if (++block_ == problem_.num_blocks) {
        block_ = 0;
        ++tile_;
      }
      job->block = problem_.blocks[job->block_index];
      job->fixed = tile * kFixedRows;
      job->begin = 0;
      job->end = static_cast<int>((job->block.queries + kMovingRows - 1) / kMovingRows);
      const EntryRange entries = problem_.keys.OfMiddle(job->block.middle, problem_.keys.halo);
      if (job->end == 0 || job->fixed >= entries.end || job->fixed + kFixedRows <= entries.begin) {
        continue;
      }
      job->is_new_tile = tile != last_tile_;
      last_tile_ = tile;
      return true;
    }
    return false;
  }

 private:
  const Problem& problem_;
  int64_t left_ = 0, tile_ = 0;
  int block_ = 0;
  int64_t last_tile_ = -1;
};

}  // namespace longspan::cuda::scoring

#endif  // LONGSPAN_KERNELS_CUDA_PREFILL_SCORE_JOBS_CUH_
