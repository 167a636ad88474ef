#ifndef LONGSPAN_KERNELS_CUDA_PREFILL_SCORE_WARPGROUPS_CUH_
#define LONGSPAN_KERNELS_CUDA_PREFILL_SCORE_WARPGROUPS_CUH_

#include <cuda_runtime.h>

#include <cstdint>
#include <limits>

#include "kernels/cuda/async_copy.cuh"
#include "kernels/cuda/numbers.cuh"
#include "kernels/cuda/prefill_score_hopper.cuh"
#include "kernels/cuda/prefill_score_jobs.cuh"

// Scores of bfloat16 rows of at most 128 numbers on Hopper. Of three warpgroups one copies: a tile
// of 256 rows that stays for a job, the next job's beside it, and a ring of tiles of 128 rows that
// it meets. Keys of fp8_e4m3 become bfloat16 as they are copied. The other two multiply, each 128
// of the 256 rows with a tile, as two products of 64 queries and 128 keys, so that one is reduced
// while the tensor cores work on the other. In both passes queries are the instruction's first
// operand: a product has the same bits.
namespace longspan::cuda::scoring {

constexpr int kGroupThreads = 128;  // of a warpgroup
constexpr int kGroups = 2;          // that multiply
constexpr int kWarpgroupThreads = (1 + kGroups) * kGroupThreads;
constexpr int kHalf = 64;  // queries of an instruction
constexpr int kMovingRows = 128;
constexpr int kFixedRows = kGroups * kMovingRows;
constexpr int kRing = 3;
constexpr int kSwizzleAlignment = 1024;

template <int kPanels>
struct WarpgroupTiles {
  static constexpr int kMovingBytes = kMovingRows * kPanels * kPanelBytes;
  static constexpr int kFixedBytes = kFixedRows * kPanels * kPanelBytes;
  static constexpr int kSharedBytes = 2 * kFixedBytes + kRing * kMovingBytes + kSwizzleAlignment;
};

#ifdef __CUDA_ARCH_FEAT_SM90_ALL

// Buffers that are filled and emptied in turn.
template <int kCount>
struct Turns {
  uint64_t full[kCount], empty[kCount];

  __device__ void Init() {
    for (int i = 0; i < kCount; ++i) {
      InitBarrier(&full[i], kGroupThreads);
      InitBarrier(&empty[i], kGroups * kGroupThreads / 32);
    }
  }
  __device__ void AwaitFull(unsigned turn) {
    AwaitBarrier(&full[turn % kCount], turn / kCount % 2);
  }
  __device__ void AwaitEmpty(unsigned turn) {
    AwaitBarrier(&empty[turn % kCount], turn / kCount % 2 ^ 1);
  }
  // By each warp that multiplies.
  __device__ void Release(unsigned turn) {
    if (threadIdx.x % 32 == 0) Arrive(&empty[turn % kCount]);
  }
};

struct WarpgroupShared {
  Turns<2> fixed;
  Turns<kRing> moving;
  uint32_t columns[kGroups][kMovingRows];  // ordered bits of a job's best, zero between jobs
};

// ---- The warpgroup that copies ----

// A tile of whole rows; row_at(i) is the i-th, or null for zeros.
template <int kPanels, int kRows, typename RowAt>
__device__ __forceinline__ void StartTile(std::byte* to, int64_t row_bytes, const RowAt& row_at) {
  constexpr int kRowChunks = kPanels * kPanelChunks;
  constexpr int kStep = kGroupThreads / kRowChunks;
  static_assert(kStep % 8 == 0);  // a thread's chunks are swizzled alike
  const int chunk = static_cast<int>(threadIdx.x) % kRowChunks;
  const int first = static_cast<int>(threadIdx.x) / kRowChunks;
  const bool in_row = chunk * kChunkBytes < row_bytes;
  to += chunk / kPanelChunks * kRows * kPanelBytes + Swizzled(first, chunk % kPanelChunks);
#pragma unroll 4
  for (int i = 0; i < kRows; i += kStep) {
    const std::byte* const row = row_at(first + i);
    const bool present = in_row && row != nullptr;
    CopyAsync(to + i * kPanelBytes, present ? row + chunk * kChunkBytes : row, present);
  }
}

// The same of rows of fp8_e4m3, which are there when it returns.
template <int kPanels, int kRows, typename RowAt>
__device__ __forceinline__ void ConvertTile(std::byte* to, int64_t row_bytes, const RowAt& row_at) {
  constexpr int kRowLoads = kPanels * kPanelChunks / 2;  // 16 numbers each, two chunks
  constexpr int kStep = kGroupThreads / kRowLoads;
  constexpr int kAtOnce = 4;  // loads under way: more do not fit the registers
  static_assert(kStep % 8 == 0 && kRows % (kStep * kAtOnce) == 0);
  const int load = static_cast<int>(threadIdx.x) % kRowLoads;
  const int first = static_cast<int>(threadIdx.x) / kRowLoads;
  const int panel = load / (kPanelChunks / 2), chunk = load % (kPanelChunks / 2) * 2;
  const bool in_row = load * kChunkBytes < row_bytes;
  to += panel * kRows * kPanelBytes;
#pragma unroll 1
  for (int i = 0; i < kRows; i += kStep * kAtOnce) {
    uint4 raw[kAtOnce];
#pragma unroll
    for (int j = 0; j < kAtOnce; ++j) {
      const std::byte* const row = row_at(first + i + j * kStep);
      raw[j] = uint4{0, 0, 0, 0};
      if (in_row && row != nullptr) {
        raw[j] = *reinterpret_cast<const uint4*>(row + load * kChunkBytes);
      }
    }
#pragma unroll
    for (int j = 0; j < kAtOnce; ++j) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        // Lanes of different panels write different banks.
        const bool upper = (half ^ panel) != 0;
        const uint2 eight = upper ? uint2{raw[j].z, raw[j].w} : uint2{raw[j].x, raw[j].y};
        std::byte* const at =
            to + (i + j * kStep) * kPanelBytes + Swizzled(first, chunk + (upper ? 1 : 0));
        *reinterpret_cast<uint4*>(at) = Fp8ToBFloat16(eight);
      }
    }
  }
}

template <int kPanels, bool kFp8Keys, int kRows>
__device__ __forceinline__ void StartKeys(const Entries& keys, int64_t first, std::byte* to) {
  const auto entry = static_cast<uint32_t>(first);
  const Entries::Place at = keys.At(entry);
  const auto start = [&](const auto& row_at) {
    if constexpr (kFp8Keys) {
      ConvertTile<kPanels, kRows>(to, keys.row_bytes, row_at);
    } else {
      StartTile<kPanels, kRows>(to, keys.row_bytes, row_at);
    }
  };
  if (keys.AreTogether(entry, at, kRows)) {
    const std::byte* const row = keys.Row(at);
    start([&](int i) { return row + i * keys.row_bytes; });
  } else {
    start([&](int i) { return entry + i < keys.count ? keys.Row(keys.At(entry + i)) : nullptr; });
  }
}

template <int kPanels, int kRows>
__device__ __forceinline__ void StartQueries(const Problem& problem, const ScoredBlock& block,
                                             int64_t first, std::byte* to) {
  const std::byte* const row = problem.Query(block, first);
  const int64_t count = block.queries - first;
  StartTile<kPanels, kRows>(to, problem.row_bytes, [&](int i) {
    return i < count ? row + i * problem.row_bytes : nullptr;
  });
}

template <int kPanels, bool kMaxima, bool kFp8Keys>
__device__ __forceinline__ void CopyTiles(const Problem& problem, WarpgroupShared* shared,
                                          std::byte* fixed, std::byte* moving) {
  using Tiles = WarpgroupTiles<kPanels>;
  unsigned fixed_turn = 0, turn = 0;
  uint64_t* started = nullptr;  // of the tile whose copies are the last but one group
  const auto announce = [&] {
    // The tensor cores read past the order of ordinary accesses.
    asm volatile("fence.proxy.async.shared::cta;\n" ::: "memory");
    Arrive(started);
  };
  const auto commit = [&](uint64_t* full) {
    CommitCopies();
    if (started != nullptr) {
      AwaitCopies<1>();
      announce();
    }
    started = full;
  };
  // Before the thread converts what it copies: others need not wait for that.
  const auto announce_last = [&] {
    if (started == nullptr) return;
    AwaitCopies<0>();
    announce();
    started = nullptr;
  };
  // Of what is there already, not only under way.
  const auto announce_now = [&](uint64_t* full) {
    started = full;
    announce();
    started = nullptr;
  };
  Jobs<kMaxima, kFixedRows, kMovingRows> jobs(problem);
  for (Job job; jobs.Next(&job);) {
    if (job.is_new_tile) {
      shared->fixed.AwaitEmpty(fixed_turn);
      std::byte* const to = fixed + fixed_turn % 2 * Tiles::kFixedBytes;
      if constexpr (kMaxima) {
        StartQueries<kPanels, kFixedRows>(problem, job.block, job.fixed, to);
      } else {
        if constexpr (kFp8Keys) announce_last();
        StartKeys<kPanels, kFp8Keys, kFixedRows>(problem.keys, job.fixed, to);
      }
      uint64_t* const full = &shared->fixed.full[fixed_turn++ % 2];
      if constexpr (kFp8Keys && !kMaxima) {
        announce_now(full);
      } else {
        commit(full);
      }
    }
    for (int tile = job.begin; tile < job.end; ++tile, ++turn) {
      shared->moving.AwaitEmpty(turn);
      std::byte* const to = moving + turn % kRing * Tiles::kMovingBytes;
      const int64_t first = int64_t{tile} * kMovingRows;
      if constexpr (kMaxima) {
        if constexpr (kFp8Keys) announce_last();
        StartKeys<kPanels, kFp8Keys, kMovingRows>(problem.keys, first, to);
      } else {
        StartQueries<kPanels, kMovingRows>(problem, job.block, first, to);
      }
      uint64_t* const full = &shared->moving.full[turn % kRing];
      if constexpr (kFp8Keys && kMaxima) {
        announce_now(full);
      } else {
        commit(full);
      }
    }
  }
  if (started != nullptr) {
    AwaitCopies<0>();
    announce();
  }
}

// ---- The warpgroups that multiply ----

// sums[4 * j + 2 * i + e] is the product of query QueryRow() + 8 * i of a half and key
// KeyColumn(2 * j + e) of a tile.
__device__ __forceinline__ int QueryRow() {
  return threadIdx.x % kGroupThreads / 32 * 16 + threadIdx.x % 32 / 4;
}
__device__ __forceinline__ int KeyColumn(int column) {
  return column / 2 * 8 + threadIdx.x % 4 * 2 + column % 2;
}

// What a thread keeps of its products. Pass one: the largest of its queries. A warpgroup's halves
// are not neighbours, so that both warpgroups have queries as soon as there are more than one half.
template <bool kMaxima>
struct Best {
  static constexpr float kLowest = -std::numeric_limits<float>::infinity();
  float best[2][2] = {{kLowest, kLowest}, {kLowest, kLowest}};
  uint32_t counts = 0;  // bit c: whether key KeyColumn(c) of the tile does

  static __device__ int FirstRow(int group, int half) { return (half * kGroups + group) * kHalf; }
  static __device__ int Halves(const Job& job, int group) {
    const int64_t queries = job.block.queries - job.fixed;
    return (FirstRow(group, 0) < queries) + (FirstRow(group, 1) < queries);
  }
  // While a tile's first products are under way.
  __device__ void Prepare(const Problem& problem, const Job& job, int tile, int half) {
    if (half != 0) return;
    const auto entry = static_cast<uint32_t>(tile * int64_t{kMovingRows});
    counts = 0xffffffff;
    if (problem.keys.AllCount(entry, kMovingRows, job.block.middle)) return;
    counts = 0;
#pragma unroll 1
    for (int c = 0; c < 32; ++c) {
      if (problem.keys.Counts(entry + KeyColumn(c), job.block.middle)) counts |= 1u << c;
    }
  }
  template <int kOfHalf>
  __device__ void Take(const Sums& sums) {
    if (counts == 0xffffffff) {
#pragma unroll
      for (int c = 0; c < 32; c += 2) {
#pragma unroll
        for (int i = 0; i < 2; ++i) {
          Raise(&best[kOfHalf][i], fmaxf(sums[2 * c + 2 * i], sums[2 * c + 2 * i + 1]));
        }
      }
    } else {
#pragma unroll
      for (int c = 0; c < 32; ++c) {
        if ((counts >> c & 1) == 0) continue;
#pragma unroll
        for (int i = 0; i < 2; ++i) {
          Raise(&best[kOfHalf][i], sums[c / 2 * 4 + i * 2 + c % 2]);
        }
      }
    }
  }
  static __device__ void Raise(float* best, float value) { *best = fmaxf(*best, value); }
  __device__ void Finish(const Problem& problem, const Job& job, int group, uint32_t*) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        float value = best[half][i];
        value = fmaxf(value, __shfl_xor_sync(0xffffffff, value, 1));
        value = fmaxf(value, __shfl_xor_sync(0xffffffff, value, 2));
        const int64_t query = job.fixed + FirstRow(group, half) + QueryRow() + 8 * i;
        if (threadIdx.x % 4 == 0 && query < job.block.queries) {
          AtomicMax(problem.maxima + job.block.first_query + query, value);
        }
      }
    }
  }
};

// Pass two: the best of its keys.
template <>
struct Best<false> {
  float best[32];
  float maxima[2];

  __device__ Best() {
#pragma unroll
    for (float& b : best) b = __uint_as_float(0x7fffffff);  // NaN: any number wins
  }
  static __device__ int Halves(const Job& job, int) { return job.block.queries > kHalf ? 2 : 1; }
  __device__ void Prepare(const Problem& problem, const Job& job, int tile, int half) {
    const int64_t query = int64_t{tile} * kMovingRows + half * kHalf + QueryRow();
#pragma unroll
    for (int i = 0; i < 2; ++i) maxima[i] = problem.Maximum(job.block, query + 8 * i);
  }
  template <int kOfHalf>
  __device__ void Take(const Sums& sums) {
#pragma unroll
    for (int c = 0; c < 32; ++c) {
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        best[c] = fmaxf(best[c], sums[c / 2 * 4 + i * 2 + c % 2] - maxima[i]);
      }
    }
  }
  // Lanes with the same keys halve them among themselves until each has four.
  __device__ void Finish(const Problem& problem, const Job& job, int group, uint32_t* columns) {
    int first = 0;
#pragma unroll
    for (int round = 0; round < 3; ++round) {
      const int width = 16 >> round;
      const bool upper = (threadIdx.x & width) != 0;
#pragma unroll
      for (int c = 0; c < 16; ++c) {
        if (c >= width) break;
        const float send = upper ? best[c] : best[c + width];
        const float keep = upper ? best[c + width] : best[c];
        best[c] = fmaxf(keep, __shfl_xor_sync(0xffffffff, send, width));
      }
      if (upper) first += width;
    }
#pragma unroll
    for (int c = 0; c < 4; ++c) atomicMax(columns + KeyColumn(first + c), OrderedBits(best[c]));
    const auto sync = [&] {
      asm volatile("bar.sync %0, %1;\n" ::"r"(1 + group), "n"(kGroupThreads) : "memory");
    };
    sync();
    const int column = threadIdx.x % kGroupThreads;
    const int64_t entry = job.fixed + group * kMovingRows + column;
    if (entry < problem.keys.count) {
      problem.best[job.block_index * problem.best_stride + entry] =
          FromOrderedBits(columns[column]);
    }
    columns[column] = 0;
    sync();
  }
};

template <int kPanels, bool kMaxima>
__device__ __forceinline__ void MultiplyTiles(const Problem& problem, WarpgroupShared* shared,
                                              const std::byte* fixed, const std::byte* moving,
                                              int group) {
  using Tiles = WarpgroupTiles<kPanels>;
  constexpr int kFixedPanel = kFixedRows * kPanelBytes;
  constexpr int kMovingPanel = kMovingRows * kPanelBytes;
  unsigned fixed_turn = 0, turn = 0;
  const std::byte* mine = fixed;
  Sums first = {}, second = {};
  Jobs<kMaxima, kFixedRows, kMovingRows> jobs(problem);
  for (Job job; jobs.Next(&job);) {
    if (job.is_new_tile) {
      if (fixed_turn > 0) shared->fixed.Release(fixed_turn - 1);
      shared->fixed.AwaitFull(fixed_turn);
      mine = fixed + fixed_turn++ % 2 * Tiles::kFixedBytes;
    }
    const auto start = [&](Sums& sums, int half) {
      const std::byte* const other = moving + turn % kRing * Tiles::kMovingBytes;
      if constexpr (kMaxima) {
        const int row = Best<true>::FirstRow(group, half);
        StartProducts<kPanels>(sums, mine + row * kPanelBytes, kFixedPanel, other, kMovingPanel);
      } else {
        StartProducts<kPanels>(sums, other + half * kHalf * kPanelBytes, kMovingPanel,
                               mine + group * kMovingRows * kPanelBytes, kFixedPanel);
      }
    };
    Best<kMaxima> best;
    const int halves = Best<kMaxima>::Halves(job, group);
    for (int tile = job.begin; tile < job.end; ++tile) {
      shared->moving.AwaitFull(turn);
      if (halves == 2) {
        start(first, 0);
        start(second, 1);
        best.Prepare(problem, job, tile, 0);
        AwaitProducts<1>(first);
        best.template Take<0>(first);
        best.Prepare(problem, job, tile, 1);
        AwaitProducts<0>(second);
        shared->moving.Release(turn);
        best.template Take<1>(second);
      } else {
        if (halves == 1) {
          start(first, 0);
          best.Prepare(problem, job, tile, 0);
          AwaitProducts<0>(first);
          best.template Take<0>(first);
        }
        shared->moving.Release(turn);
      }
      ++turn;
    }
    best.Finish(problem, job, group, shared->columns[group]);
  }
}

#endif  // __CUDA_ARCH_FEAT_SM90_ALL

// Empty, without static shared memory, where it was compiled for another architecture.
template <int kPanels, bool kMaxima, bool kFp8Keys>
__global__ void __launch_bounds__(kWarpgroupThreads, 1)
    ScoreWarpgroupsKernel(const __grid_constant__ Problem problem) {
#ifdef __CUDA_ARCH_FEAT_SM90_ALL
  using Tiles = WarpgroupTiles<kPanels>;
  extern __shared__ std::byte unaligned[];
  __shared__ WarpgroupShared shared;
  std::byte* const fixed =
      unaligned +
      (kSwizzleAlignment - SharedAddress(unaligned) % kSwizzleAlignment) % kSwizzleAlignment;
  std::byte* const moving = fixed + 2 * Tiles::kFixedBytes;
  if (threadIdx.x == 0) {
    shared.fixed.Init();
    shared.moving.Init();
  }
  for (int i = threadIdx.x; i < kGroups * kMovingRows; i += kWarpgroupThreads) {
    shared.columns[i / kMovingRows][i % kMovingRows] = 0;
  }
  __syncthreads();
  // Registers go from those who copy to those who multiply.
  const int warpgroup = __shfl_sync(0xffffffff, threadIdx.x / kGroupThreads, 0);
  if (warpgroup == 0) {
    asm volatile("setmaxnreg.dec.sync.aligned.u32 56;\n");
    CopyTiles<kPanels, kMaxima, kFp8Keys>(problem, &shared, fixed, moving);
  } else {
    asm volatile("setmaxnreg.inc.sync.aligned.u32 224;\n");
    MultiplyTiles<kPanels, kMaxima>(problem, &shared, fixed, moving, warpgroup - 1);
  }
#endif
}

}  // namespace longspan::cuda::scoring

#endif  // LONGSPAN_KERNELS_CUDA_PREFILL_SCORE_WARPGROUPS_CUH_
