#include <cublasLt.h>
#include <cuda_runtime.h>

#include <algorithm>
#include <compare>
#include <map>
#include <optional>
#include <string>
#include <type_traits>
#include <utility>

#include "absl/strings/str_cat.h"
#include "kernels/base/status_macros.h"
#include "kernels/cuda/async_copy.cuh"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/linear.h"
#include "kernels/cuda/norm.cuh"
#include "kernels/cuda/numbers.cuh"

namespace longspan::cuda {
namespace {

constexpr int kWarp = 32;
constexpr int kWarps = 8;
constexpr int kThreads = kWarps * kWarp;
constexpr int kFewRows = static_cast<int>(kMaxFewRows);
constexpr int64_t kMaxLaunchRows = 65535 * kMaxFewRows;  // gridDim.y; keeps the rest aligned

// What the sum at `at` of y is added to. Read early, for it comes from afar.
__device__ float Before(const LinearArgs& args, int64_t at) {
  if (!args.accumulate) return 0;
  switch (args.y_dtype) {
    case DType::kFloat32:
      return static_cast<const float*>(args.y)[at];
    case DType::kBFloat16:
      return ToFloat(static_cast<const __nv_bfloat16*>(args.y)[at]);
    case DType::kFloat16:
      return ToFloat(static_cast<const __half*>(args.y)[at]);
    case DType::kFloat8E4M3:
      break;  // refused by the launch
  }
  return 0;
}

__device__ void Put(const LinearArgs& args, int64_t at, float value) {
  switch (args.y_dtype) {
    case DType::kFloat32:
      static_cast<float*>(args.y)[at] = value;
      return;
    case DType::kBFloat16:
      static_cast<__nv_bfloat16*>(args.y)[at] = FromFloat<__nv_bfloat16>(value);
      return;
    case DType::kFloat16:
      static_cast<__half*>(args.y)[at] = FromFloat<__half>(value);
      return;
    case DType::kFloat8E4M3:
      return;  // refused by the launch
  }
}

// ---- Few rows of 16-bit numbers ----
//
// A block has tiles of 16 outputs of 8 rows, one after the other. A step is kStepInputs inputs, of
// which each of the 4 lanes of a group multiplies kPieces * 8 of the group's two outputs with those
// of the group's row. Tensor cores multiply, so that 8 rows cost no more instructions than one.
// Which number a fragment calls its k-th is free as long as both operands agree.
//
// Weights come through a ring in shared memory: copies in flight take no registers there, and leave
// the first-level cache to x, which every block reads. x comes from the second-level cache, or from
// the first where another block was faster; a step takes less time than that, and so x is read some
// ahead. Rows that the block norms itself lie in shared memory.
//
// A block starts while the kernels before it still run, and fills its ring. The rings of all
// blocks are what the memory does meanwhile, and should last until those kernels have ended. From
// one tile to the next the ring runs on.

constexpr int kOutputs = 16;    // of a tile
constexpr int kLaneInputs = 8;  // 16 bytes, a piece
// Pieces of a row that a lane multiplies in a step. With 2, lanes copy whole lines of memory, for
// each other; with 1 each lane copies what it multiplies.
constexpr int kPieces = 2;
constexpr int kRowPieces = 4 * kPieces;  // of a step
constexpr int kStepInputs = kRowPieces * kLaneInputs;
constexpr int kBlockInputs = kWarps * kStepInputs;  // of one step of every warp
constexpr int kCopies = 2 * kPieces;                // of a lane and step
constexpr int kCopiedRows = kWarp / kRowPieces;     // by a warp's lanes at once
constexpr int kSlotPieces = kOutputs * kRowPieces;  // of a warp and step
constexpr int kSlots = 6 / kPieces;                 // steps of a warp's ring
constexpr int kAhead = kPieces == 1 ? 3 : 2;        // steps that x is ahead
constexpr int kRingPieces = kWarps * kSlots * kSlotPieces;
constexpr int kRingBytes = kRingPieces * 16;
// Whether blocks take as many tiles each as keep the grid resident, and not one.
constexpr bool kManyTiles = true;
// On a multiprocessor, by registers.
constexpr int kMinBlocks = 4;
// Rows that blocks norm themselves: with one of 4096 numbers, 4 blocks still fit 228 KiB.
constexpr int kNormRows = 2;
constexpr int64_t kMaxNormBytes = 16 << 10;
// A warp's sums of a tile take the place of a step.
static_assert(kFewRows * kOutputs * sizeof(float) <= kSlotPieces * 16);

struct FewRows {
  LinearArgs args;
  LinearFusion fusion;
  int tiles;
  int steps;  // of a tile, each warp's
};
// Inputs and outputs are ints, up to some steps and tiles beyond the end, and weights are found by
// pieces counted from the first.
constexpr int64_t kMaxInputs = int64_t{1} << 30;
constexpr int64_t kMaxOutputs = int64_t{1} << 30;
constexpr int64_t kMaxWeightPieces = int64_t{1} << 32;

// sum[output, row] += weight[output, 16] x[row, 16]^T, in the fragments of m16n8k16. `upper` is of
// the first 8 outputs, `lower` of the others.
template <typename T>
__device__ void AddProducts(uint32_t upper0, uint32_t upper1, uint32_t lower0, uint32_t lower1,
                            uint32_t x0, uint32_t x1, float (&sum)[4]) {
  if constexpr (std::is_same_v<T, __half>) {
    asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, "
        "{%8, %9}, {%0, %1, %2, %3};"
        : "+f"(sum[0]), "+f"(sum[1]), "+f"(sum[2]), "+f"(sum[3])
        : "r"(upper0), "r"(lower0), "r"(upper1), "r"(lower1), "r"(x0), "r"(x1));
  } else {
    asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, "
        "{%8, %9}, {%0, %1, %2, %3};"
        : "+f"(sum[0]), "+f"(sum[1]), "+f"(sum[2]), "+f"(sum[3])
        : "r"(upper0), "r"(lower0), "r"(upper1), "r"(lower1), "r"(x0), "r"(x1));
  }
}

// Row `row` of the weight's part for a tile. Rows beyond the end repeat the last one, and nobody
// looks at the result. With swiglu the first 8 are gates, and the others what they meet.
__device__ __forceinline__ int WeightRow(const FewRows& job, int tile, int row) {
  const int out = static_cast<int>(job.args.out);
  if (!job.fusion.swiglu) return min(tile * kOutputs + row, out - 1);
  constexpr int kHalf = kOutputs / 2;
  const int gate = min(tile * kHalf + row % kHalf, out / 2 - 1);
  return row < kHalf ? gate : gate + out / 2;
}

// A piece of a step in its slot. Where a row fills all banks, odd rows have their halves swapped,
// so that the two groups that read at once read different ones.
__device__ __forceinline__ int PlaceOf(int row, int piece) {
  if constexpr (kPieces == 2) piece ^= row % 2 * 4;
  return row * kRowPieces + piece;
}

// A lane's copies to its warp's ring, of one tile after the other; pieces beyond the inputs are
// zeros.
class Copies {
 public:
  __device__ Copies(const FewRows& job, uint4* ring)
      : job_(job),
        first_(threadIdx.x / kWarp * kRowPieces + threadIdx.x % kRowPieces),
        to_(ring + PlaceOf(Row(0), threadIdx.x % kRowPieces)),
        tile_(blockIdx.x) {
    Seek();
  }

  // Every step is a group of copies, those after the last one are empty.
  __device__ __forceinline__ void Next() {
    if (tile_ < job_.tiles) {
      const int piece = step_ * kWarps * kRowPieces;
      const bool present = first_ + piece < static_cast<int>(job_.args.in) / kLaneInputs;
#pragma unroll
      for (int i = 0; i < kCopies; ++i) {
        // Rows so far apart are both odd, or both even.
        static_assert(kCopiedRows % 2 == 0);
        CopyAsync(to_ + slot_ * kSlotPieces + i * kCopiedRows * kRowPieces,
                  static_cast<const uint4*>(job_.args.weight) + from_[i] + piece, present);
      }
      if (++step_ == job_.steps) {
        step_ = 0;
        tile_ += static_cast<int>(gridDim.x);
        Seek();
      }
    }
    CommitCopies();
    slot_ = slot_ == kSlots - 1 ? 0 : slot_ + 1;
  }

 private:
  static __device__ __forceinline__ int Row(int i) {
    return threadIdx.x % kWarp / kRowPieces + i * kCopiedRows;
  }
  __device__ __forceinline__ void Seek() {
    const auto row_pieces = static_cast<uint32_t>(job_.args.in / kLaneInputs);
#pragma unroll
    for (int i = 0; i < kCopies; ++i) {
      from_[i] = static_cast<uint32_t>(WeightRow(job_, tile_, Row(i))) * row_pieces + first_;
    }
  }

  const FewRows& job_;
  int first_;  // piece of a row
  uint4* to_;
  int tile_;
  uint32_t from_[kCopies];  // pieces of the weight
  int step_ = 0, slot_ = 0;
};

// What a lane multiplies of its group's row; pieces beyond the inputs are zeros.
template <typename T>
struct LaneRow {
  const T* x;  // from the lane's first input on
  int left;    // inputs from there on

  // Not __ldg: the kernel before this one may have written it after this one had started.
  __device__ __forceinline__ void Load(int step, uint4 (&pieces)[kPieces]) const {
#pragma unroll
    for (int i = 0; i < kPieces; ++i) {
      const int k = step * kBlockInputs + i * 4 * kLaneInputs;
      pieces[i] = k < left ? *reinterpret_cast<const uint4*>(x + k) : uint4{};
    }
  }
};

// The sums of a tile. The copies of kSlots - 1 steps are under way, `slot` is the first one's. even
// and odd: the fragments of the sums over the even and odd halves of lanes' pieces.
template <typename T, int kXAhead>
__device__ __forceinline__ void AddSteps(int steps, const LaneRow<T>& row, const uint4* ring,
                                         Copies& copies, int* slot, float (&even)[4],
                                         float (&odd)[4]) {
  const int group = threadIdx.x % kWarp / 4;
  const int part = threadIdx.x % 4;
  uint4 ahead[kXAhead == 0 ? 1 : kXAhead][kPieces];
#pragma unroll
  for (int step = 0; step < kXAhead; ++step) row.Load(step, ahead[step]);
  for (int step = 0; step < steps; ++step) {
    if constexpr (kXAhead == 0) row.Load(step, ahead[0]);
    AwaitCopies<kSlots - 2>();
    if constexpr (kPieces > 1) __syncwarp();  // with what the other lanes copied
    const uint4* from = ring + *slot * kSlotPieces;
#pragma unroll
    for (int i = 0; i < kPieces; ++i) {
      const uint4 upper = from[PlaceOf(group, part + 4 * i)];
      const uint4 lower = from[PlaceOf(group + kOutputs / 2, part + 4 * i)];
      const uint4 x = ahead[0][i];
      AddProducts<T>(upper.x, upper.y, lower.x, lower.y, x.x, x.y, even);
      AddProducts<T>(upper.z, upper.w, lower.z, lower.w, x.z, x.w, odd);
    }
#pragma unroll
    for (int a = 0; a + 1 < kXAhead; ++a) {
#pragma unroll
      for (int i = 0; i < kPieces; ++i) ahead[a][i] = ahead[a + 1][i];
    }
    if constexpr (kXAhead > 0) row.Load(step + kXAhead, ahead[kXAhead - 1]);
    // Into the slot that was read a step ago.
    copies.Next();
    *slot = *slot == kSlots - 1 ? 0 : *slot + 1;
  }
}

// A line of `norm` for each thread on its way to the second-level cache.
__device__ __forceinline__ void PrefetchNorm(const FewRows& job) {
  constexpr int kLine = 128 / sizeof(float);
  for (int64_t i = threadIdx.x * kLine; i < job.args.in; i += kThreads * kLine) {
    asm volatile("prefetch.global.L2 [%0];" ::"l"(job.fusion.norm + i));
  }
}

// The sums [rows, row_warps] of squares: what RmsNorm's warps each have of a row, by two at a time.
__device__ __forceinline__ void SumSquares(const FewRows& job, int row_warps, float* sums) {
  constexpr int kVector = 4;
  constexpr int kAtOnce = 2;
  const int lane = threadIdx.x % kWarp;
  const int warps = static_cast<int>(job.args.rows) * row_warps;
  const int64_t dim = job.args.in;
  const int64_t step = int64_t{row_warps} * kWarp * kVector;
  for (int first = threadIdx.x / kWarp; first < warps; first += kAtOnce * kWarps) {
    float held[kAtOnce][kHeld][kVector] = {};
    const auto row = [&](int warp) {
      return static_cast<const float*>(job.args.x) + warp / row_warps * dim;
    };
    const auto begin = [&](int warp) { return (warp % row_warps * kWarp + lane) * kVector; };
#pragma unroll
    for (int a = 0; a < kAtOnce; ++a) {
      const int warp = first + a * kWarps;
#pragma unroll
      for (int h = 0; h < kHeld; ++h) {
        const int64_t i = begin(warp) + h * step;
        if (warp < warps && i < dim) LoadFloats(row(warp) + i, held[a][h]);
      }
    }
#pragma unroll
    for (int a = 0; a < kAtOnce; ++a) {
      const int warp = first + a * kWarps;
      if (warp >= warps) break;
      float sum = 0;
#pragma unroll
      for (int h = 0; h < kHeld; ++h) AddSquares(held[a][h], &sum);
      for (int64_t i = begin(warp) + kHeld * step; i < dim; i += step) {
        float more[kVector];
        LoadFloats(row(warp) + i, more);
        AddSquares(more, &sum);
      }
      sum = SumOfWarp(sum);
      if (lane == 0) sums[warp] = sum;
    }
  }
}

// The rows of x, normed, to shared memory [rows, in], where sums lie meanwhile.
template <typename T>
__device__ __forceinline__ void NormRows(const FewRows& job, T* normed) {
  const int64_t dim = job.args.in;
  const int rows = static_cast<int>(job.args.rows);
  const int row_warps = dim <= kMaxWarpRow ? 1 : kLongRowThreads / kWarp;
  auto* sums = reinterpret_cast<float*>(normed);
  SumSquares(job, row_warps, sums);
  __syncthreads();
  float scales[kNormRows] = {};
#pragma unroll
  for (int r = 0; r < kNormRows; ++r) {
    if (r >= rows) break;
    scales[r] = NormScale(SumOfWarps(sums + r * row_warps, row_warps), dim, job.fusion.epsilon);
  }
  __syncthreads();
#pragma unroll
  for (int r = 0; r < kNormRows; ++r) {
    if (r >= rows) break;
    const float* x = static_cast<const float*>(job.args.x) + r * dim;
    for (int64_t i = threadIdx.x * kLaneInputs; i < dim; i += kThreads * kLaneInputs) {
      float out[kLaneInputs];
#pragma unroll
      for (int part = 0; part < kLaneInputs; part += 4) {
        float values[4], weights[4];
        LoadFloats(x + i + part, values);
        LoadFloats(job.fusion.norm + i + part, weights);
#pragma unroll
        for (int v = 0; v < 4; ++v) out[part + v] = Normed(values[v], scales[r], weights[v]);
      }
      StoreFloats(out, normed + r * dim + i);
    }
  }
  __syncthreads();
}

// A thread's own number of a tile of y.
struct Own {
  int row, output;  // of the tile
  int at_row, at_output;
  bool puts;

  __device__ __forceinline__ Own(const FewRows& job, int tile) {
    const int width = job.fusion.swiglu ? kOutputs / 2 : kOutputs;
    const auto out = static_cast<int>(job.args.out);
    row = threadIdx.x / kOutputs;
    output = threadIdx.x % kOutputs;
    at_row = static_cast<int>(blockIdx.y) * kFewRows + row;
    at_output = tile * width + output;
    puts = row < kFewRows && at_row < job.args.rows && output < width &&
           at_output < (job.fusion.swiglu ? out / 2 : out);
  }
};

// The warps' sums [kFewRows, kOutputs], each in its part of the rings.
__device__ __forceinline__ float SumOver(const float* sums, int row, int output) {
  float sum = 0;
#pragma unroll
  for (int warp = 0; warp < kWarps; ++warp) {
    sum += sums[warp * kSlots * kSlotPieces * 4 + row * kOutputs + output];
  }
  return sum;
}

// before, bias: what is added to the sum.
__device__ __forceinline__ void PutSum(const FewRows& job, const Own& own, const float* sums,
                                       float before, float bias) {
  const LinearFusion& fusion = job.fusion;
  const LinearArgs& args = job.args;
  float sum = before + SumOver(sums, own.row, own.output);
  if (fusion.swiglu) {
    const float up = 0.0f + SumOver(sums, own.row, own.output + kOutputs / 2);
    return Put(args, own.at_row * (args.out / 2) + own.at_output, Silu(sum) * up);
  }
  if (fusion.bias != nullptr) sum += bias;
  const int64_t first_key = args.out - 2 * fusion.kv_dim;
  if (own.at_output < first_key) {
    return Put(args, own.at_row * first_key + own.at_output, sum);
  }
  const int64_t column = own.at_output - first_key;
  const int64_t key = own.at_row * fusion.kv_dim + column;
  if (column < fusion.kv_dim) {
    fusion.keys[key] = sum;
  } else {
    fusion.values[key - fusion.kv_dim] = sum;
  }
}

// in is a multiple of kLaneInputs, and x and weight are aligned to 16 bytes.
template <typename T, bool kNorm>
__global__ void __launch_bounds__(kThreads, kMinBlocks)
    FewRowsKernel(const __grid_constant__ FewRows job) {
  extern __shared__ __align__(128) uint4 shared[];  // the rings [kWarps, kSlots], then normed rows
  LetSuccessorsStart();
  const int warp = threadIdx.x / kWarp;
  const int group = threadIdx.x % kWarp / 4;
  const int part = threadIdx.x % 4;
  uint4* ring = shared + warp * kSlots * kSlotPieces;
  Copies copies(job, ring);
#pragma unroll
  for (int step = 0; step < kSlots - 1; ++step) copies.Next();
  if constexpr (kNorm) PrefetchNorm(job);
  WaitForPredecessors();
  const T* rows = static_cast<const T*>(job.args.x);
  if constexpr (kNorm) {
    T* normed = reinterpret_cast<T*>(shared + kRingPieces);
    NormRows(job, normed);
    rows = normed;
  }
  const int in = static_cast<int>(job.args.in);
  const int first = warp * kStepInputs + part * kLaneInputs;
  // Groups beyond the end repeat the last row, and nobody looks at the result.
  const int64_t row = min(int64_t{blockIdx.y} * kFewRows + group, job.args.rows - 1);
  const LaneRow<T> lane_row = {rows + row * in + first, in - first};
  int slot = 0;
  for (int tile = blockIdx.x; tile < job.tiles; tile += gridDim.x) {
    float before = 0, bias = 0;  // read early, for they come from afar
    if (const Own own(job, tile); own.puts) {
      before = Before(job.args, own.at_row * job.args.out + own.at_output);
      if (job.fusion.bias != nullptr) bias = job.fusion.bias[own.at_output];
    }
    float even[4] = {}, odd[4] = {};
    AddSteps<T, kNorm ? 0 : kAhead>(job.steps, lane_row, ring, copies, &slot, even, odd);
    // The sums take the place of the step that was read last, of which all has been read.
    __syncwarp();
    const int last = (slot == 0 ? kSlots : slot) - 1;
    float* sums = reinterpret_cast<float*>(ring + last * kSlotPieces);
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      sums[(2 * part + i % 2) * kOutputs + group + i / 2 * (kOutputs / 2)] = even[i] + odd[i];
    }
    __syncthreads();
    if (const Own own(job, tile); own.puts) {
      PutSum(job, own, reinterpret_cast<float*>(shared + last * kSlotPieces), before, bias);
    }
    if (tile + gridDim.x < job.tiles) __syncthreads();  // the next step copies to their place
  }
}

int Attribute(cudaDeviceAttr attribute) {
  int device = 0, value = 0;
  if (cudaGetDevice(&device) != cudaSuccess) return 1;
  if (cudaDeviceGetAttribute(&value, attribute, device) != cudaSuccess) return 1;
  return value;
}

// Blocks that are to have the tiles: all the same number of them, and as many as are resident.
unsigned TileBlocks(int64_t tiles, int64_t shared_bytes) {
  if (!kManyTiles) return BlocksOf(tiles, 1);
  const int64_t block_bytes = shared_bytes + Attribute(cudaDevAttrReservedSharedMemoryPerBlock);
  const int64_t memory = Attribute(cudaDevAttrMaxSharedMemoryPerMultiprocessor);
  const int64_t resident = std::clamp<int64_t>(memory / block_bytes, 1, kMinBlocks) *
                           Attribute(cudaDevAttrMultiProcessorCount);
  return BlocksOf(tiles, BlocksOf(tiles, resident));
}

template <typename T, bool kNorm>
absl::Status LaunchFewRows(const LinearArgs& args, const LinearFusion& fusion, Stream stream) {
  const auto kernel = FewRowsKernel<T, kNorm>;
  const int64_t most_bytes = kRingBytes + (kNorm ? kMaxNormBytes : 0);
  const int64_t bytes = kRingBytes + (kNorm ? args.rows * args.in * 2 : 0);
  LONGSPAN_RETURN_IF_ERROR(
      ToStatus(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                    static_cast<int>(most_bytes)),
               "cudaFuncSetAttribute"));
  FewRows job = {args, fusion};
  job.tiles = static_cast<int>(fusion.swiglu ? BlocksOf(args.out / 2, kOutputs / 2)
                                             : BlocksOf(args.out, kOutputs));
  job.steps = static_cast<int>(BlocksOf(args.in, kBlockInputs));
  const dim3 grid(TileBlocks(job.tiles, bytes), BlocksOf(args.rows, kFewRows));
  LaunchAfter(kernel, grid, kThreads, static_cast<size_t>(bytes), stream, job);
  return CheckLaunch("LinearFewRows");
}

template <typename T>
absl::Status LaunchFewRows(const LinearArgs& args, const LinearFusion& fusion, Stream stream) {
  return fusion.norm != nullptr ? LaunchFewRows<T, true>(args, fusion, stream)
                                : LaunchFewRows<T, false>(args, fusion, stream);
}

// ---- Few rows of float32, or of any shape and alignment ----

// A warp has an output of kRows rows, a lane every 32nd vector of inputs. Every sum is in the same
// order whatever kRows is.
template <typename T, int kVector, int kRows>
__global__ void __launch_bounds__(kThreads) DotKernel(LinearArgs args) {
  LetSuccessorsStart();
  WaitForPredecessors();
  const int64_t output = int64_t{blockIdx.x} * kWarps + threadIdx.x / kWarp;
  if (output >= args.out) return;  // a whole warp
  const int lane = threadIdx.x % kWarp;
  const int64_t first_row = int64_t{blockIdx.y} * kRows;
  const T* weight = static_cast<const T*>(args.weight) + output * args.in;
  const T* x[kRows];
#pragma unroll
  for (int r = 0; r < kRows; ++r) {
    x[r] = static_cast<const T*>(args.x) + min(first_row + r, args.rows - 1) * args.in;
  }
  float sums[kRows] = {};
#pragma unroll 4
  for (int64_t k = lane * kVector; k < args.in; k += kWarp * kVector) {
    float weights[kVector];
    LoadFloats(weight + k, weights);
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
      float values[kVector];
      LoadFloats(x[r] + k, values);
#pragma unroll
      for (int v = 0; v < kVector; ++v) sums[r] = fmaf(weights[v], values[v], sums[r]);
    }
  }
#pragma unroll
  for (int r = 0; r < kRows; ++r) {
#pragma unroll
    for (int width = kWarp / 2; width > 0; width /= 2) {
      sums[r] += __shfl_xor_sync(0xffffffffu, sums[r], width);
    }
    if (lane == r && first_row + r < args.rows) {
      const int64_t at = (first_row + r) * args.out + output;
      Put(args, at, Before(args, at) + sums[r]);
    }
  }
}

template <typename T, int kVector>
void LaunchDots(const LinearArgs& args, Stream stream) {
  const auto launch = [&]<int kRows>(std::integral_constant<int, kRows>) {
    const dim3 grid(BlocksOf(args.out, kWarps), BlocksOf(args.rows, kRows));
    LaunchAfter(DotKernel<T, kVector, kRows>, grid, kThreads, 0, stream, args);
  };
  if (args.rows == 1) {
    launch(std::integral_constant<int, 1>());
  } else if (args.rows == 2) {
    launch(std::integral_constant<int, 2>());
  } else if (args.rows <= 4) {
    launch(std::integral_constant<int, 4>());
  } else {
    launch(std::integral_constant<int, kFewRows>());
  }
}

absl::Status CheckTypes(const LinearArgs& args) {
  if (args.dtype != DType::kFloat8E4M3 &&
      (args.y_dtype == DType::kFloat32 || args.y_dtype == args.dtype)) {
    return absl::OkStatus();
  }
  return absl::InvalidArgumentError(
      absl::StrCat("a product of ", std::string(DTypeName(args.dtype)), " numbers cannot be ",
                   std::string(DTypeName(args.y_dtype))));
}

// ---- Many rows, through cuBLASLt ----

constexpr int64_t kWorkspaceBytes = 32 << 20;
constexpr size_t kMaxPlans = 1024;
constexpr int kMaxAlignment = 256;  // bytes; cuBLASLt knows no larger one

absl::Status CheckCublas(cublasStatus_t status, const char* what) {
  if (status == CUBLAS_STATUS_SUCCESS) return absl::OkStatus();
  return absl::InternalError(absl::StrCat(what, ": ", cublasLtGetStatusString(status)));
}

cudaDataType_t CublasType(DType dtype) {
  switch (dtype) {
    case DType::kBFloat16:
      return CUDA_R_16BF;
    case DType::kFloat16:
      return CUDA_R_16F;
    case DType::kFloat8E4M3:  // refused by the launch
    case DType::kFloat32:
      break;
  }
  return CUDA_R_32F;
}

uint32_t AlignmentOf(const void* pointer) {
  uint32_t bytes = kMaxAlignment;
  while (!IsAligned(pointer, bytes)) bytes /= 2;
  return bytes;
}

// What an algorithm is chosen by.
struct Key {
  explicit Key(const LinearArgs& args)
      : rows(args.rows),
        in(args.in),
        out(args.out),
        dtype(args.dtype),
        y_dtype(args.y_dtype),
        accumulate(args.accumulate),
        x_alignment(AlignmentOf(args.x)),
        weight_alignment(AlignmentOf(args.weight)),
        y_alignment(AlignmentOf(args.y)) {}
  auto operator<=>(const Key&) const = default;

  int64_t rows, in, out;
  DType dtype, y_dtype;
  bool accumulate;
  uint32_t x_alignment, weight_alignment, y_alignment;  // bytes
};

// The product as cuBLASLt sees it, which has matrices column by column: y^T = W x^T, where W^T is
// [in, out], x^T is [in, rows], and y^T is [out, rows].
struct Problem {
  cublasLtMatmulDescOpaque_t operation;
  cublasLtMatrixLayoutOpaque_t weight, x, y;

  absl::Status Describe(const Key& key) {
    const cudaDataType_t type = CublasType(key.dtype);
    const cublasOperation_t transpose = CUBLAS_OP_T;
    LONGSPAN_RETURN_IF_ERROR(
        CheckCublas(cublasLtMatmulDescInit(&operation, CUBLAS_COMPUTE_32F, CUDA_R_32F),
                    "cublasLtMatmulDescInit"));
    LONGSPAN_RETURN_IF_ERROR(
        CheckCublas(cublasLtMatmulDescSetAttribute(&operation, CUBLASLT_MATMUL_DESC_TRANSA,
                                                   &transpose, sizeof(transpose)),
                    "cublasLtMatmulDescSetAttribute"));
    LONGSPAN_RETURN_IF_ERROR(Layout(type, key.in, key.out, &weight));
    LONGSPAN_RETURN_IF_ERROR(Layout(type, key.in, key.rows, &x));
    return Layout(CublasType(key.y_dtype), key.out, key.rows, &y);
  }

 private:
  static absl::Status Layout(cudaDataType_t type, int64_t column, int64_t columns,
                             cublasLtMatrixLayoutOpaque_t* layout) {
    return CheckCublas(cublasLtMatrixLayoutInit(layout, type, column, columns, column),
                       "cublasLtMatrixLayoutInit");
  }
};

template <typename T>
absl::Status Prefer(cublasLtMatmulPreferenceOpaque_t* preference,
                    cublasLtMatmulPreferenceAttributes_t attribute, T value) {
  return CheckCublas(
      cublasLtMatmulPreferenceSetAttribute(preference, attribute, &value, sizeof(value)),
      "cublasLtMatmulPreferenceSetAttribute");
}

absl::Status DescribePreference(const Key& key, cublasLtMatmulPreferenceOpaque_t* preference) {
  LONGSPAN_RETURN_IF_ERROR(
      CheckCublas(cublasLtMatmulPreferenceInit(preference), "cublasLtMatmulPreferenceInit"));
  LONGSPAN_RETURN_IF_ERROR(Prefer(preference, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES,
                                  static_cast<uint64_t>(kWorkspaceBytes)));
  // Where the inputs are split, parts are written out as floats and added in a fixed order.
  LONGSPAN_RETURN_IF_ERROR(Prefer(preference, CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK,
                                  static_cast<uint32_t>(CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE)));
  LONGSPAN_RETURN_IF_ERROR(
      Prefer(preference, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, key.weight_alignment));
  LONGSPAN_RETURN_IF_ERROR(
      Prefer(preference, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, key.x_alignment));
  LONGSPAN_RETURN_IF_ERROR(
      Prefer(preference, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, key.y_alignment));
  return Prefer(preference, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, key.y_alignment);
}

}  // namespace

absl::Status LinearFewRows(const LinearArgs& args, Stream stream) {
  LONGSPAN_RETURN_IF_ERROR(CheckTypes(args));
  if (args.rows == 0 || args.out == 0) return absl::OkStatus();
  if (args.rows > kMaxLaunchRows) {
    LinearArgs first = args, rest = args;
    first.rows = kMaxLaunchRows;
    rest.rows -= kMaxLaunchRows;
    rest.x = static_cast<const std::byte*>(args.x) + first.rows * args.in * SizeOf(args.dtype);
    rest.y = static_cast<std::byte*>(args.y) + first.rows * args.out * SizeOf(args.y_dtype);
    LONGSPAN_RETURN_IF_ERROR(LinearFewRows(first, stream));
    return LinearFewRows(rest, stream);
  }
  const bool aligned = IsAligned(args.x, 16) && IsAligned(args.weight, 16);
  return WithType(args.dtype, [&]<typename T>() {
    constexpr int kVector = 16 / sizeof(T);
    if constexpr (!std::is_same_v<T, float>) {
      if (LinearFuses(args, {})) return LaunchFewRows<T>(args, {}, stream);
    } else if (aligned && args.in % kVector == 0) {
      LaunchDots<T, kVector>(args, stream);
      return CheckLaunch("LinearFewRows");
    }
    LaunchDots<T, 1>(args, stream);
    return CheckLaunch("LinearFewRows");
  });
}

bool LinearFuses(const LinearArgs& args, const LinearFusion& fusion) {
  if (args.dtype != DType::kBFloat16 && args.dtype != DType::kFloat16) return false;
  if (args.in == 0 || args.in % kLaneInputs != 0) return false;
  if (args.in > kMaxInputs || args.out > kMaxOutputs || args.rows > kMaxLaunchRows) return false;
  if (args.in / kLaneInputs * args.out >= kMaxWeightPieces) return false;
  if (!IsAligned(args.x, 16) || !IsAligned(args.weight, 16)) return false;
  if (fusion.swiglu && args.out % 2 != 0) return false;
  return fusion.norm == nullptr ||
         (args.rows <= kNormRows && args.rows * args.in * 2 <= kMaxNormBytes &&
          IsAligned(fusion.norm, 16));
}

absl::Status LinearFewRows(const LinearArgs& args, const LinearFusion& fusion, Stream stream) {
  LONGSPAN_RETURN_IF_ERROR(CheckTypes(args));
  const bool splits = fusion.kv_dim != 0;
  const bool is_float = args.y_dtype == DType::kFloat32;
  if (!LinearFuses(args, fusion) || (fusion.bias != nullptr && !is_float) ||
      (fusion.swiglu && (is_float || args.accumulate || fusion.bias != nullptr)) ||
      (splits && (!is_float || args.accumulate || fusion.swiglu)) || fusion.kv_dim < 0 ||
      2 * fusion.kv_dim > args.out) {
    return absl::InvalidArgumentError(absl::StrCat("no product of ", args.rows, " rows of ",
                                                   args.in, " ", std::string(DTypeName(args.dtype)),
                                                   " numbers does this on the way"));
  }
  if (args.rows == 0 || args.out == 0) return absl::OkStatus();
  return args.dtype == DType::kBFloat16 ? LaunchFewRows<__nv_bfloat16>(args, fusion, stream)
                                        : LaunchFewRows<__half>(args, fusion, stream);
}

struct LinearPlans::Impl {
  // An algorithm, or none: cuBLASLt has nothing for this shape and alignment.
  using Plan = std::optional<cublasLtMatmulAlgo_t>;

  Impl() = default;
  Impl(const Impl&) = delete;
  Impl& operator=(const Impl&) = delete;
  ~Impl() {
    if (handle != nullptr) cublasLtDestroy(handle);
  }

  absl::StatusOr<Plan> Choose(const Key& key, Problem* problem) {
    const auto known = plans.find(key);
    if (known != plans.end()) return known->second;
    cublasLtMatmulPreferenceOpaque_t preference;
    LONGSPAN_RETURN_IF_ERROR(DescribePreference(key, &preference));
    cublasLtMatmulHeuristicResult_t result = {};
    int count = 0;
    const cublasStatus_t status =
        cublasLtMatmulAlgoGetHeuristic(handle, &problem->operation, &problem->weight, &problem->x,
                                       &problem->y, &problem->y, &preference, 1, &result, &count);
    Plan plan;
    if (status != CUBLAS_STATUS_NOT_SUPPORTED) {
      LONGSPAN_RETURN_IF_ERROR(CheckCublas(status, "cublasLtMatmulAlgoGetHeuristic"));
      if (count > 0 && result.state == CUBLAS_STATUS_SUCCESS) plan = result.algo;
    }
    if (plans.size() >= kMaxPlans) plans.clear();
    plans.emplace(key, plan);
    return plan;
  }

  absl::Status Run(const LinearArgs& args, Stream stream) {
    const Key key(args);
    Problem problem;
    LONGSPAN_RETURN_IF_ERROR(problem.Describe(key));
    LONGSPAN_ASSIGN_OR_RETURN(const Plan plan, Choose(key, &problem));
    if (!plan.has_value()) return LinearFewRows(args, stream);
    const float one = 1;
    const float beta = args.accumulate ? 1 : 0;
    return CheckCublas(
        cublasLtMatmul(handle, &problem.operation, &one, args.weight, &problem.weight, args.x,
                       &problem.x, &beta, args.y, &problem.y, args.y, &problem.y, &*plan,
                       workspace.data(), kWorkspaceBytes, stream),
        "cublasLtMatmul");
  }

  cublasLtHandle_t handle = nullptr;
  Buffer workspace;
  std::map<Key, Plan> plans;
};

LinearPlans::LinearPlans(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
LinearPlans::LinearPlans(LinearPlans&&) noexcept = default;
LinearPlans& LinearPlans::operator=(LinearPlans&&) noexcept = default;
LinearPlans::~LinearPlans() = default;

std::string LinearLibrary() { return absl::StrCat("cuBLASLt ", cublasLtGetVersion()); }

int64_t LinearPlans::Bytes() { return kWorkspaceBytes; }

absl::StatusOr<LinearPlans> LinearPlans::Create() {
  auto impl = std::make_unique<Impl>();
  LONGSPAN_RETURN_IF_ERROR(CheckCublas(cublasLtCreate(&impl->handle), "cublasLtCreate"));
  LONGSPAN_ASSIGN_OR_RETURN(impl->workspace, Buffer::Allocate(Bytes()));
  return LinearPlans(std::move(impl));
}

absl::Status Linear(const LinearArgs& args, LinearPlans* plans, Stream stream) {
  LONGSPAN_RETURN_IF_ERROR(CheckTypes(args));
  if (args.rows == 0 || args.out == 0) return absl::OkStatus();
  if (args.rows <= kMaxFewRows || args.in == 0) return LinearFewRows(args, stream);
  return plans->impl_->Run(args, stream);
}

}  // namespace longspan::cuda
