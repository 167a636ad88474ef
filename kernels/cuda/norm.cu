#include <cuda_runtime.h>

#include <algorithm>

#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/norm.cuh"
#include "kernels/cuda/norm.h"
#include "kernels/cuda/numbers.cuh"

namespace longspan::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kWarp = kNormWarp;

// ---- RMSNorm ----

// The sum over the threads of a row: a warp, or all of the block.
template <int kRowThreads>
__device__ float SumOfRow(float value) {
  value = SumOfWarp(value);
  if constexpr (kRowThreads > kWarp) {
    constexpr int kWarps = kRowThreads / kWarp;
    __shared__ float sums[kWarps];
    if (threadIdx.x % kWarp == 0) sums[threadIdx.x / kWarp] = value;
    __syncthreads();
    value = SumOfWarps(sums, kWarps);
  }
  return value;
}

// A thread keeps its first kHeld vectors, and reads the others again for the product, from the
// cache; it alone reads them, and so may overwrite them.
template <typename Out, int kVector, int kRowThreads, int kBlock>
__global__ void __launch_bounds__(kBlock) RmsNormKernel(RmsNormArgs args) {
  LetSuccessorsStart();
  const int64_t first = threadIdx.x % kRowThreads * kVector;
  constexpr int kStep = kRowThreads * kVector;
  float values[kHeld][kVector] = {}, weights[kHeld][kVector] = {};
#pragma unroll
  for (int h = 0; h < kHeld; ++h) {
    const int64_t i = first + h * kStep;
    if (i < args.dim) LoadFloats(args.weight + i, weights[h]);
  }
  WaitForPredecessors();
  const int64_t row = int64_t{blockIdx.x} * (kBlock / kRowThreads) + threadIdx.x / kRowThreads;
  if (row >= args.rows) return;  // a whole warp
  const float* x = args.x + row * args.dim;
  Out* out = static_cast<Out*>(args.out) + row * args.dim;
#pragma unroll
  for (int h = 0; h < kHeld; ++h) {
    const int64_t i = first + h * kStep;
    if (i < args.dim) LoadFloats(x + i, values[h]);
  }
  float sum = 0;
#pragma unroll
  for (int h = 0; h < kHeld; ++h) AddSquares(values[h], &sum);
#pragma unroll 4
  for (int64_t i = first + kHeld * kStep; i < args.dim; i += kStep) {
    float more[kVector];
    LoadFloats(x + i, more);
    AddSquares(more, &sum);
  }
  sum = SumOfRow<kRowThreads>(sum);
  const float scale = NormScale(sum, args.dim, args.epsilon);
#pragma unroll
  for (int h = 0; h < kHeld; ++h) {
    const int64_t i = first + h * kStep;
#pragma unroll
    for (int v = 0; v < kVector; ++v) values[h][v] = Normed(values[h][v], scale, weights[h][v]);
    if (i < args.dim) StoreFloats(values[h], out + i);
  }
#pragma unroll 2
  for (int64_t i = first + kHeld * kStep; i < args.dim; i += kStep) {
    float more[kVector], their_weights[kVector];
    LoadFloats(x + i, more);
    LoadFloats(args.weight + i, their_weights);
#pragma unroll
    for (int v = 0; v < kVector; ++v) more[v] = Normed(more[v], scale, their_weights[v]);
    StoreFloats(more, out + i);
  }
}

template <typename Out, int kVector>
void LaunchRmsNorm(const RmsNormArgs& args, Stream stream) {
  if (args.dim <= kMaxWarpRow) {
    LaunchAfter(RmsNormKernel<Out, kVector, kWarp, kThreads>, BlocksOf(args.rows, kThreads / kWarp),
                kThreads, 0, stream, args);
  } else {
    LaunchAfter(RmsNormKernel<Out, kVector, kLongRowThreads, kLongRowThreads>,
                BlocksOf(args.rows, 1), kLongRowThreads, 0, stream, args);
  }
}

// ---- Elementwise ----

// A thread has kVector numbers of a row; the last one has those that are left, one by one.
template <typename T, typename Out, int kVector>
__global__ void __launch_bounds__(kThreads) SwiGluKernel(SwiGluArgs args, unsigned row_blocks) {
  LetSuccessorsStart();
  WaitForPredecessors();
  const int64_t row = blockIdx.x / row_blocks;
  const T* gate = static_cast<const T*>(args.gate) + row * args.stride;
  const T* up = static_cast<const T*>(args.up) + row * args.stride;
  Out* out = static_cast<Out*>(args.out) + row * args.count;
  const int64_t i = (int64_t{blockIdx.x % row_blocks} * kThreads + threadIdx.x) * kVector;
  if (i + kVector <= args.count) {
    float gates[kVector], ups[kVector];
    LoadFloats(gate + i, gates);
    LoadFloats(up + i, ups);
#pragma unroll
    for (int v = 0; v < kVector; ++v) gates[v] = Silu(gates[v]) * ups[v];
    StoreFloats(gates, out + i);
  } else {
    for (int64_t j = i; j < args.count; ++j) {
      out[j] = FromFloat<Out>(Silu(ToFloat(gate[j])) * ToFloat(up[j]));
    }
  }
}

template <typename T, typename Out>
void LaunchSwiGlu(const SwiGluArgs& args, Stream stream) {
  constexpr int kVector = 16 / std::max(sizeof(T), sizeof(Out));
  const bool rows_are_aligned =
      args.rows == 1 || (args.stride % kVector == 0 && args.count % kVector == 0);
  const auto launch = [&]<int kWidth>() {
    const unsigned row_blocks = BlocksOf(args.count, kThreads * kWidth);
    LaunchAfter(SwiGluKernel<T, Out, kWidth>, BlocksOf(args.rows * row_blocks, 1), kThreads, 0,
                stream, args, row_blocks);
  };
  if (rows_are_aligned && IsAligned(args.gate, kVector * sizeof(T)) &&
      IsAligned(args.up, kVector * sizeof(T)) && IsAligned(args.out, kVector * sizeof(Out))) {
    launch.template operator()<kVector>();
  } else {
    launch.template operator()<1>();
  }
}

// A block has a row.
template <typename T, int kVector>
__global__ void __launch_bounds__(kThreads) AddBiasKernel(AddBiasArgs args) {
  LetSuccessorsStart();
  WaitForPredecessors();
  T* y = static_cast<T*>(args.y) + blockIdx.x * args.out;
  for (int64_t i = threadIdx.x * kVector; i < args.out; i += kThreads * kVector) {
    float values[kVector], biases[kVector];
    LoadFloats(y + i, values);
    LoadFloats(args.bias + i, biases);
#pragma unroll
    for (int v = 0; v < kVector; ++v) values[v] += biases[v];
    StoreFloats(values, y + i);
  }
}

}  // namespace

absl::Status RmsNorm(const RmsNormArgs& args, Stream stream) {
  if (args.rows == 0 || args.dim == 0) return absl::OkStatus();
  return WithType(args.out_dtype, [&]<typename Out>() {
    constexpr int kVector = 4;
    if (args.dim % kVector == 0 && IsAligned(args.x, kVector * sizeof(float)) &&
        IsAligned(args.weight, kVector * sizeof(float)) &&
        IsAligned(args.out, kVector * sizeof(Out))) {
      LaunchRmsNorm<Out, kVector>(args, stream);
    } else {
      LaunchRmsNorm<Out, 1>(args, stream);
    }
    return CheckLaunch("RmsNorm");
  });
}

absl::Status SwiGlu(const SwiGluArgs& args, Stream stream) {
  if (args.count == 0 || args.rows == 0) return absl::OkStatus();
  return WithType(args.dtype, [&]<typename T>() {
    return WithType(args.out_dtype, [&]<typename Out>() {
      LaunchSwiGlu<T, Out>(args, stream);
      return CheckLaunch("SwiGlu");
    });
  });
}

absl::Status AddBias(const AddBiasArgs& args, Stream stream) {
  if (args.rows == 0 || args.out == 0) return absl::OkStatus();
  return WithType(args.dtype, [&]<typename T>() {
    constexpr int kVector = 4;
    const unsigned blocks = BlocksOf(args.rows, 1);
    if (args.out % kVector == 0 && IsAligned(args.y, kVector * sizeof(T)) &&
        IsAligned(args.bias, kVector * sizeof(float))) {
      LaunchAfter(AddBiasKernel<T, kVector>, blocks, kThreads, 0, stream, args);
    } else {
      LaunchAfter(AddBiasKernel<T, 1>, blocks, kThreads, 0, stream, args);
    }
    return CheckLaunch("AddBias");
  });
}

}  // namespace longspan::cuda
