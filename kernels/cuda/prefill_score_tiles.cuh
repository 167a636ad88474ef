#ifndef LONGSPAN_KERNELS_CUDA_PREFILL_SCORE_TILES_CUH_
#define LONGSPAN_KERNELS_CUDA_PREFILL_SCORE_TILES_CUH_

#include <cuda_bf16.h>
#include <cuda_runtime.h>

#include <cstdint>
#include <limits>

#include "kernels/cuda/async_copy.cuh"
#include "kernels/cuda/numbers.cuh"
#include "kernels/cuda/prefill_score_jobs.cuh"

// Scores of any dimension on any architecture: tiles of 128 queries and 128 keys, panel by panel
// through shared memory. A thread has 8 x 8 products of a tile, of which a `Products` type knows
// the places: it adds a panel's products to them, each in the order of the dimensions. Keys of
// fp8_e4m3 become bfloat16 on their way to shared memory.
namespace longspan::cuda::scoring {

constexpr int kTile = 128;
constexpr int kTileThreads = 256;
constexpr int kTileStages = 3;
constexpr int kOperandBytes = kTile * kPanelBytes;
constexpr int kTileSharedBytes = kTileStages * 2 * kOperandBytes;
constexpr int kThreadRows = 8;  // and columns

struct FloatProducts {
  static constexpr int kBlocksPerMultiprocessor = 1;
  // Threads are 16 x 16; a thread has every 16th query and key.
  static __device__ int Query(int i) { return threadIdx.x / 16 + 16 * i; }
  static __device__ int Key(int j) { return threadIdx.x % 16 + 16 * j; }

  static __device__ void Add(const std::byte* queries, const std::byte* keys, int bytes,
                             float (&sums)[kThreadRows][kThreadRows]) {
    constexpr int kKeys = 4;  // at once
    const int chunks = bytes / kChunkBytes;
#pragma unroll 1
    for (int chunk = 0; chunk < chunks; ++chunk) {
#pragma unroll
      for (int first = 0; first < kThreadRows; first += kKeys) {
        float4 k[kKeys];
#pragma unroll
        for (int j = 0; j < kKeys; ++j) {
          k[j] = *reinterpret_cast<const float4*>(keys + Swizzled(Key(first + j), chunk));
        }
#pragma unroll
        for (int i = 0; i < kThreadRows; ++i) {
          const auto q = *reinterpret_cast<const float4*>(queries + Swizzled(Query(i), chunk));
#pragma unroll
          for (int j = 0; j < kKeys; ++j) {
            float sum = sums[i][first + j];
            sum = fmaf(q.x, k[j].x, sum);
            sum = fmaf(q.y, k[j].y, sum);
            sum = fmaf(q.z, k[j].z, sum);
            sums[i][first + j] = fmaf(q.w, k[j].w, sum);
          }
        }
      }
    }
  }
};

struct BFloat16Products {
  static constexpr int kBlocksPerMultiprocessor = 2;
  static constexpr int kStepBytes = 32;  // 16 numbers: one instruction's
  // Warps are 2 x 4 with 64 queries and 32 keys each, in fragments of 16 x 8.
  static __device__ int FirstQuery() { return threadIdx.x / 128 * 64; }
  static __device__ int FirstKey() { return threadIdx.x / 32 % 4 * 32; }
  static __device__ int Query(int i) { return FirstQuery() + threadIdx.x % 32 / 4 + 8 * i; }
  static __device__ int Key(int j) { return FirstKey() + j / 2 * 8 + threadIdx.x % 4 * 2 + j % 2; }

  // Four 8 x 8 matrices; a lane gives the address of one row of them.
  static __device__ __forceinline__ void LoadMatrices(const std::byte* row, uint32_t (&to)[4]) {
    const auto address = static_cast<unsigned>(__cvta_generic_to_shared(row));
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];\n"
                 : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
                 : "r"(address)
                 : "memory");
  }

  static __device__ __forceinline__ void MultiplyAdd(const uint32_t (&a)[4], uint32_t b0,
                                                     uint32_t b1, float (&upper)[kThreadRows],
                                                     float (&lower)[kThreadRows], int j) {
    asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, "
        "{%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};\n"
        : "+f"(upper[j]), "+f"(upper[j + 1]), "+f"(lower[j]), "+f"(lower[j + 1])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
  }

  static __device__ void Add(const std::byte* queries, const std::byte* keys, int bytes,
                             float (&sums)[kThreadRows][kThreadRows]) {
    const int lane = threadIdx.x % 32;
    const int query = FirstQuery() + lane % 16, query_chunk = lane / 16;
    const int key = FirstKey() + lane / 16 * 8 + lane % 8, key_chunk = lane / 8 % 2;
#pragma unroll
    for (int step = 0; step < kPanelBytes / kStepBytes; ++step) {
      if (step * kStepBytes >= bytes) break;
      uint32_t b[2][4];  // of 16 keys each
#pragma unroll
      for (int n = 0; n < 2; ++n) {
        LoadMatrices(keys + Swizzled(key + 16 * n, 2 * step + key_chunk), b[n]);
      }
#pragma unroll
      for (int m = 0; m < kThreadRows / 2; ++m) {
        uint32_t a[4];
        LoadMatrices(queries + Swizzled(query + 16 * m, 2 * step + query_chunk), a);
#pragma unroll
        for (int n = 0; n < 4; ++n) {
          MultiplyAdd(a, b[n / 2][n % 2 * 2], b[n / 2][n % 2 * 2 + 1], sums[2 * m], sums[2 * m + 1],
                      2 * n);
        }
      }
    }
  }
};

// A thread's copies of one operand: a chunk of every 32nd row.
struct RowCopies {
  static constexpr int kRows = kTile / (kTileThreads / kPanelChunks);
  const std::byte* rows[kRows];  // null: zeros

  static __device__ int Chunk() { return threadIdx.x % kPanelChunks; }
  static __device__ int RowOf(int i) {
    return threadIdx.x / kPanelChunks + i * (kTileThreads / kPanelChunks);
  }
  __device__ void Find(const Entries& keys, int64_t first) {
#pragma unroll
    for (int i = 0; i < kRows; ++i) {
      const int64_t entry = first + RowOf(i);
      rows[i] = entry < keys.count ? keys.Row(keys.At(static_cast<uint32_t>(entry))) : nullptr;
    }
  }
  __device__ void Find(const Problem& problem, const ScoredBlock& block, int64_t first) {
#pragma unroll
    for (int i = 0; i < kRows; ++i) {
      const int64_t query = first + RowOf(i);
      rows[i] = query < block.queries ? problem.Query(block, query) : nullptr;
    }
  }
  // Of the `row_bytes` bytes that lie `skipped` bytes behind the begin of a row.
  __device__ void Start(int64_t panel, int64_t row_bytes, std::byte* to,
                        int64_t skipped = 0) const {
    const int64_t from = panel * kPanelBytes + Chunk() * kChunkBytes;
#pragma unroll
    for (int i = 0; i < kRows; ++i) {
      const bool present = rows[i] != nullptr && from < row_bytes;
      CopyAsync(to + Swizzled(RowOf(i), Chunk()), present ? rows[i] + skipped + from : rows[i],
                present);
    }
  }
  // The same of rows of fp8_e4m3, that have `row_bytes` bytes as bfloat16.
  __device__ void Convert(int64_t panel, int64_t row_bytes, std::byte* to,
                          int64_t skipped = 0) const {
    const int64_t from = panel * kPanelBytes + Chunk() * kChunkBytes;
    uint2 raw[kRows];
#pragma unroll
    for (int i = 0; i < kRows; ++i) {
      const bool present = rows[i] != nullptr && from < row_bytes;
      raw[i] =
          present ? *reinterpret_cast<const uint2*>(rows[i] + skipped + from / 2) : uint2{0, 0};
    }
#pragma unroll
    for (int i = 0; i < kRows; ++i) {
      *reinterpret_cast<uint4*>(to + Swizzled(RowOf(i), Chunk())) = Fp8ToBFloat16(raw[i]);
    }
  }
};

template <typename Products, bool kMaxima, bool kFp8Keys>
__global__ void __launch_bounds__(kTileThreads, Products::kBlocksPerMultiprocessor)
    ScoreTilesKernel(const __grid_constant__ Problem problem) {
  extern __shared__ __align__(1024) std::byte operands[];
  __shared__ uint32_t reduced[kTile];  // ordered bits: of a query in pass one, of a key in pass two
  constexpr float kInfinity = std::numeric_limits<float>::infinity();
  const Entries& keys = problem.keys;
  const auto panels = static_cast<int>((problem.row_bytes + kPanelBytes - 1) / kPanelBytes);

  Jobs<kMaxima, kTile, kTile> jobs(problem);
  for (Job job; jobs.Next(&job);) {
    RowCopies query_copies, key_copies;
    if (kMaxima) {
      query_copies.Find(problem, job.block, job.fixed);
    } else {
      key_copies.Find(keys, job.fixed);
    }
    int next_tile = job.begin, next_panel = 0;
    const auto start = [&](int stage) {
      if (next_tile < job.end) {
        if (next_panel == 0) {
          const int64_t first = int64_t{next_tile} * kTile;
          if (kMaxima) {
            key_copies.Find(keys, first);
          } else {
            query_copies.Find(problem, job.block, first);
          }
        }
        std::byte* const to = operands + stage * 2 * kOperandBytes;
        query_copies.Start(next_panel, problem.row_bytes, to);
        if constexpr (kFp8Keys) {
          key_copies.Convert(next_panel, problem.row_bytes, to + kOperandBytes);
        } else {
          key_copies.Start(next_panel, problem.row_bytes, to + kOperandBytes);
        }
        if (++next_panel == panels) {
          next_panel = 0;
          ++next_tile;
        }
      }
      CommitCopies();
    };

    if (threadIdx.x < kTile) reduced[threadIdx.x] = 0;
#pragma unroll
    for (int stage = 0; stage < kTileStages - 1; ++stage) start(stage);
    float best[kThreadRows];
#pragma unroll
    for (float& b : best) b = __uint_as_float(0x7fffffff);  // any number wins
    int stage = 0;
    for (int tile = job.begin; tile < job.end; ++tile) {
      float sums[kThreadRows][kThreadRows] = {};
      for (int panel = 0; panel < panels; ++panel) {
        AwaitCopies<kTileStages - 2>();
        __syncthreads();
        start((stage + kTileStages - 1) % kTileStages);
        const std::byte* const from = operands + stage * 2 * kOperandBytes;
        const int64_t rest = problem.row_bytes - int64_t{panel} * kPanelBytes;
        Products::Add(from, from + kOperandBytes, static_cast<int>(min(rest, int64_t{kPanelBytes})),
                      sums);
        stage = (stage + 1) % kTileStages;
      }
      const int64_t first = int64_t{tile} * kTile;
      if (kMaxima) {
        const auto entry = static_cast<uint32_t>(first);
        const bool all = keys.AllCount(entry, kTile, job.block.middle);
#pragma unroll
        for (int j = 0; j < kThreadRows; ++j) {
          if (!all && !keys.Counts(entry + Products::Key(j), job.block.middle)) continue;
#pragma unroll
          for (int i = 0; i < kThreadRows; ++i) best[i] = fmaxf(best[i], sums[i][j]);
        }
      } else {
#pragma unroll
        for (int i = 0; i < kThreadRows; ++i) {
          const float maximum = problem.Maximum(job.block, first + Products::Query(i));
#pragma unroll
          for (int j = 0; j < kThreadRows; ++j) best[j] = fmaxf(best[j], sums[i][j] - maximum);
        }
      }
    }
    AwaitCopies<0>();

#pragma unroll
    for (int i = 0; i < kThreadRows; ++i) {
      atomicMax(reduced + (kMaxima ? Products::Query(i) : Products::Key(i)), OrderedBits(best[i]));
    }
    __syncthreads();
    if (threadIdx.x < kTile) {
      const float value = FromOrderedBits(reduced[threadIdx.x]);
      const int64_t row = job.fixed + threadIdx.x;
      if (kMaxima) {
        if (row < job.block.queries && value > -kInfinity) {
          AtomicMax(problem.maxima + job.block.first_query + row, value);
        }
      } else if (row < keys.count) {
        problem.best[job.block_index * problem.best_stride + row] = value;
      }
    }
    __syncthreads();
  }
}

}  // namespace longspan::cuda::scoring

#endif  // LONGSPAN_KERNELS_CUDA_PREFILL_SCORE_TILES_CUH_
