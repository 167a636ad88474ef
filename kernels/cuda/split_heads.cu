#include <cuda_runtime.h>

#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/numbers.cuh"
#include "kernels/cuda/split_heads.h"
#include "kernels/cuda/sum_across.cuh"

namespace longspan::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kWarp = 32;

// A warp has one head of one row.
__global__ void __launch_bounds__(kThreads) SplitHeadsKernel(SplitHeadsArgs args) {
  LetSuccessorsStart();
  WaitForPredecessors();
  const int64_t query_heads = args.queries == nullptr ? 0 : args.shape.heads;
  const int64_t kv_heads = args.shape.kv_heads;
  const int64_t heads = query_heads + 2 * kv_heads;
  const int64_t dim = args.shape.head_dim;
  const int64_t index = int64_t{blockIdx.x} * (kThreads / kWarp) + threadIdx.x / kWarp;
  if (index >= args.rows * heads) return;  // a whole warp
  const int64_t row = index / heads;
  const int64_t head = index % heads;
  const float* from = args.stacked + index * dim;
  const float* bias = args.bias == nullptr ? nullptr : args.bias + head * dim;
  const float* norm = nullptr;
  float* to;
  if (head < query_heads) {
    to = args.queries + (row * query_heads + head) * dim;
    norm = args.query_norm;
  } else if (head < query_heads + kv_heads) {
    to = args.keys + (row * kv_heads + head - query_heads) * dim;
    norm = args.key_norm;
  } else {
    to = args.values + (row * kv_heads + head - query_heads - kv_heads) * dim;
  }
  const int lane = threadIdx.x % kWarp;
  float scale = 1;
  if (norm != nullptr) {
    float sum[1] = {0};
    for (int64_t i = lane; i < dim; i += kWarp) {
      const float value = from[i] + (bias == nullptr ? 0.0f : bias[i]);
      sum[0] += value * value;
    }
    SumAcross<1, kWarp>(sum);
    scale = 1.0f / sqrtf(sum[0] / static_cast<float>(dim) + args.epsilon);
  }
  for (int64_t i = lane; i < dim; i += kWarp) {
    const float value = from[i] + (bias == nullptr ? 0.0f : bias[i]);
    to[i] = norm == nullptr ? value : value * scale * norm[i];
  }
}

}  // namespace

absl::Status SplitHeads(const SplitHeadsArgs& args, Stream stream) {
  if (args.rows == 0) return absl::OkStatus();
  const int64_t heads = (args.queries == nullptr ? 0 : args.shape.heads) + 2 * args.shape.kv_heads;
  LaunchAfter(SplitHeadsKernel, BlocksOf(args.rows * heads, kThreads / kWarp), kThreads, 0, stream,
              args);
  return CheckLaunch("SplitHeads");
}

}  // namespace longspan::cuda
