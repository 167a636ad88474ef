#include <cuda_runtime.h>

#include <cub/block/block_reduce.cuh>
#include <cub/block/block_scan.cuh>

#include "kernels/base/status_macros.h"
#include "kernels/cuda/ring_plan.h"

// Each pair of a reader and an owner that this rank is one of has a bit for every token of the
// owner, in each group. Blocks set the bits of what they read; then bits are counted, tile by tile,
// and what stands before a tile says where its tokens go.
namespace longspan::cuda {
namespace {

constexpr int kThreads = 256;
constexpr unsigned kMarkBlocks = 32;  // of each selection block
constexpr int kTile = 512;            // words of 32 bits, and threads, of a tile

// Segments in this order: kind, group, rank.
enum Kind { kSent, kArriving, kKinds };

struct Bitmaps {
  int64_t words = 0;  // of a segment
  int tiles = 0;      // of a segment
  int64_t segments = 0;
  uint32_t* bits = nullptr;         // [segments, words]
  uint32_t* tile_counts = nullptr;  // [segments, tiles]

  Bitmaps(const ShardGeometry& geometry, int num_groups, int64_t positions, std::byte* workspace) {
    // The first rank has most.
    const int64_t tokens =
        ShardGeometry{geometry.stripe_tokens, geometry.num_ranks, 0}.OwnedBefore(positions);
    words = (tokens + 31) / 32;
    tiles = static_cast<int>((words + kTile - 1) / kTile);
    segments = int64_t{kKinds} * num_groups * geometry.num_ranks;
    bits = reinterpret_cast<uint32_t*>(workspace);
    tile_counts = bits + segments * words;
  }
  int64_t bytes() const { return segments * (words + tiles) * static_cast<int64_t>(sizeof(*bits)); }
};

__device__ int64_t SegmentOf(const RingPlanArgs& args, Kind kind, int group, int rank) {
  return (int64_t{kind} * args.num_groups + group) * args.geometry.num_ranks + rank;
}

__device__ void SetBits(uint32_t* word, uint32_t mask) {
  // Most of what is read was read by a block before; looking is cheaper than setting again.
  if ((*static_cast<volatile uint32_t*>(word) & mask) != mask) atomicOr(word, mask);
}

__device__ ShardGeometry GeometryOf(const RingPlanArgs& args, int rank) {
  return {args.geometry.stripe_tokens, args.geometry.num_ranks, rank};
}

// The tokens of `range` that one rank owns are a run of its local indices.
__device__ void MarkOwned(ShardGeometry owner, Range range, uint32_t* segment, int64_t thread) {
  const int64_t first = owner.OwnedBefore(range.begin);
  const int64_t end = owner.OwnedBefore(range.end);
  for (int64_t word = first / 32 + thread; word * 32 < end; word += kMarkBlocks * kThreads) {
    const int64_t from = max(first - word * 32, int64_t{0});
    const int64_t to = min(end - word * 32, int64_t{32});
    if (from < to) SetBits(&segment[word], 0xffffffffu >> (32 - (to - from)) << from);
  }
}

__global__ void __launch_bounds__(kThreads) MarkKernel(RingPlanArgs args, Bitmaps maps) {
  const RingBlock block = args.blocks[blockIdx.x];
  const int rank = args.geometry.rank;
  const bool mine = block.reader == rank;
  // Of this rank's blocks all is marked, by owner; of others' what this rank owns.
  const auto segment = [&](int owner) {
    const int64_t index = mine ? SegmentOf(args, kArriving, block.group, owner)
                               : SegmentOf(args, kSent, block.group, block.reader);
    return maps.bits + index * maps.words;
  };
  const int64_t thread = int64_t{blockIdx.y} * kThreads + threadIdx.x;
  for (int64_t i = thread; i < block.num_selected; i += kMarkBlocks * kThreads) {
    const int64_t position =
        PositionOf(args.selected[block.keys.selection * args.selected_stride + i]);
    const int owner = args.geometry.Owner(position);
    if (!mine && owner != rank) continue;
    const int64_t local = GeometryOf(args, owner).OwnedBefore(position);
    SetBits(&segment(owner)[local / 32], 1u << (local % 32));
  }
  for (const Range range : {block.keys.initial, block.keys.near}) {
    if (range.begin >= range.end) continue;
    if (!mine) {
      MarkOwned(args.geometry, range, segment(rank), thread);
      continue;
    }
    // Of many ranks only those that own some of it.
    const int64_t stripe = args.geometry.stripe_tokens;
    const int64_t stripes = (range.end - 1) / stripe - range.begin / stripe + 1;
    int owner = args.geometry.Owner(range.begin);
    for (int64_t i = min(stripes, int64_t{args.geometry.num_ranks}); i > 0; --i) {
      MarkOwned(GeometryOf(args, owner), range, segment(owner), thread);
      owner = owner + 1 == args.geometry.num_ranks ? 0 : owner + 1;
    }
  }
}

// A tile of one kind and rank, group after group: bits of groups before are taken out.
__global__ void __launch_bounds__(kTile) CountKernel(RingPlanArgs args, Bitmaps maps) {
  using Reduce = cub::BlockReduce<uint32_t, kTile>;
  __shared__ typename Reduce::TempStorage storage;
  const int64_t word = int64_t{blockIdx.x} * kTile + threadIdx.x;
  uint32_t seen = 0;
  for (int group = 0; group < args.num_groups; ++group) {
    const int64_t segment =
        SegmentOf(args, static_cast<Kind>(blockIdx.z), group, static_cast<int>(blockIdx.y));
    uint32_t fresh = 0;
    if (word < maps.words) {
      uint32_t& bits = maps.bits[segment * maps.words + word];
      fresh = bits & ~seen;
      seen |= fresh;
      bits = fresh;
    }
    const uint32_t count = Reduce(storage).Sum(__popc(fresh));
    if (threadIdx.x == 0) maps.tile_counts[segment * maps.tiles + blockIdx.x] = count;
    __syncthreads();  // before the storage is used again
  }
}

// Writes the tokens of a tile of one segment, behind those of all before it of the same kind.
__global__ void __launch_bounds__(kTile) EmitKernel(RingPlanArgs args, Bitmaps maps) {
  using Reduce = cub::BlockReduce<uint32_t, kTile>;
  using Scan = cub::BlockScan<uint32_t, kTile>;
  __shared__ union {
    typename Reduce::TempStorage reduce;
    typename Scan::TempStorage scan;
  } storage;
  __shared__ uint32_t tile_begin;
  const int64_t of_kind = int64_t{args.num_groups} * args.geometry.num_ranks;
  const int64_t segment = blockIdx.z * of_kind + blockIdx.y;
  const uint32_t* counts = maps.tile_counts + blockIdx.z * of_kind * maps.tiles;
  uint32_t before = 0;
  for (int64_t i = threadIdx.x; i < int64_t{blockIdx.y} * maps.tiles + blockIdx.x; i += kTile) {
    before += counts[i];
  }
  before = Reduce(storage.reduce).Sum(before);
  if (threadIdx.x == 0) tile_begin = before;
  __syncthreads();

  const int64_t word = int64_t{blockIdx.x} * kTile + threadIdx.x;
  uint32_t bits = word < maps.words ? maps.bits[segment * maps.words + word] : 0;
  uint32_t place = 0, total = 0;
  Scan(storage.scan).ExclusiveSum(__popc(bits), place, total);
  place += tile_begin;
  const ShardGeometry owner =
      GeometryOf(args, static_cast<int>(blockIdx.y % args.geometry.num_ranks));
  for (; bits != 0; bits &= bits - 1, ++place) {
    const int64_t local = word * 32 + __ffs(static_cast<int>(bits)) - 1;
    if (blockIdx.z == kSent) {
      args.sent[place] = static_cast<uint32_t>(local);
    } else {
      if (owner.rank == args.geometry.rank) args.own[place] = static_cast<uint32_t>(local);
      args.row_of[owner.Position(local)] = place;
    }
  }
  if (threadIdx.x == 0 && blockIdx.x + 1 == gridDim.x) args.ends[segment] = tile_begin + total;
}

}  // namespace

int64_t RingPlanWorkspaceBytes(const ShardGeometry& geometry, int num_groups, int64_t positions) {
  return Bitmaps(geometry, num_groups, positions, nullptr).bytes();
}

absl::Status PlanRing(const RingPlanArgs& args, Stream stream) {
  if (args.num_blocks == 0 || args.positions <= 0) {
    return absl::InvalidArgumentError("PlanRing: nothing is read");
  }
  const Bitmaps maps(args.geometry, args.num_groups, args.positions, args.workspace);
  LONGSPAN_RETURN_IF_ERROR(Fill(args.workspace, 0, maps.bytes(), stream));
  const unsigned ranks = args.geometry.num_ranks;
  const unsigned tiles = maps.tiles;
  MarkKernel<<<dim3(args.num_blocks, kMarkBlocks), kThreads, 0, stream>>>(args, maps);
  CountKernel<<<dim3(tiles, ranks, kKinds), kTile, 0, stream>>>(args, maps);
  EmitKernel<<<dim3(tiles, ranks * args.num_groups, kKinds), kTile, 0, stream>>>(args, maps);
  return CheckLaunch("PlanRing");
}

}  // namespace longspan::cuda
