#include <cuda_runtime.h>

#include <limits>

#include "absl/strings/str_cat.h"
#include "kernels/cuda/numbers.cuh"
#include "kernels/cuda/sampling.h"

namespace longspan::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kWarp = 32;
constexpr int kWarps = kThreads / kWarp;
constexpr int kParts = 32;  // blocks of a row, one warp's lanes afterwards
static_assert(kParts == kWarp);

// A logit's order-preserving bits above its inverted id: the greatest is the choice. 0: no logit.
using Choice = unsigned long long;

__device__ Choice MakeChoice(float logit, int64_t id) {
  const uint32_t bits = __float_as_uint(logit + 0.0f);  // -0 + 0 = +0
  const uint32_t ordered = (bits & 0x80000000u) != 0 ? ~bits : bits | 0x80000000u;
  return static_cast<Choice>(ordered) << 32 | (0xffffffffu - static_cast<uint32_t>(id));
}

__device__ Choice MaxOfWarp(Choice choice) {
#pragma unroll
  for (int width = kWarp / 2; width > 0; width /= 2) {
    choice = max(choice, __shfl_xor_sync(0xffffffffu, choice, width));
  }
  return choice;
}

// Block (part, row). A thread sees its ids ascending, so that a logit must be greater to replace
// one before.
template <int kVector>
__global__ void __launch_bounds__(kThreads) PartMaxKernel(const ArgMaxArgs args) {
  __shared__ Choice choices[kWarps];
  for (int64_t row = blockIdx.y; row < args.rows; row += gridDim.y) {
    const float* const logits = args.logits + row * args.vocab;
    const int64_t first = (int64_t{blockIdx.x} * kThreads + threadIdx.x) * kVector;
    float best = -std::numeric_limits<float>::infinity();
    int64_t best_id = first;
#pragma unroll 4
    for (int64_t i = first; i < args.vocab; i += kParts * kThreads * kVector) {
      float values[kVector];
      LoadFloats(logits + i, values);
#pragma unroll
      for (int v = 0; v < kVector; ++v) {
        if (values[v] > best) {  // never a NaN
          best = values[v];
          best_id = i + v;
        }
      }
    }
    const Choice choice = MaxOfWarp(first < args.vocab ? MakeChoice(best, best_id) : 0);
    if (threadIdx.x % kWarp == 0) choices[threadIdx.x / kWarp] = choice;
    __syncthreads();
    if (threadIdx.x < kWarp) {
      const Choice of_block = MaxOfWarp(threadIdx.x < kWarps ? choices[threadIdx.x] : 0);
      if (threadIdx.x == 0) {
        static_cast<Choice*>(args.workspace)[row * kParts + blockIdx.x] = of_block;
      }
    }
    __syncthreads();
  }
}

// A warp has a row.
__global__ void __launch_bounds__(kThreads) ChooseKernel(const ArgMaxArgs args) {
  const int64_t row = int64_t{blockIdx.x} * kWarps + threadIdx.x / kWarp;
  if (row >= args.rows) return;
  const int lane = threadIdx.x % kWarp;
  const Choice choice = MaxOfWarp(static_cast<const Choice*>(args.workspace)[row * kParts + lane]);
  if (lane == 0) args.ids[row] = static_cast<int32_t>(0xffffffffu - static_cast<uint32_t>(choice));
}

}  // namespace

int64_t ArgMaxWorkspaceBytes(int64_t rows) {
  return rows * kParts * static_cast<int64_t>(sizeof(Choice));
}

absl::Status ArgMax(const ArgMaxArgs& args, Stream stream) {
  if (args.rows == 0) return absl::OkStatus();
  if (args.vocab < 1 || args.vocab > std::numeric_limits<int32_t>::max()) {
    return absl::InvalidArgumentError(absl::StrCat("no choice among ", args.vocab, " tokens"));
  }
  constexpr int64_t kMaxGridY = 65535;
  const dim3 grid(kParts, static_cast<unsigned>(args.rows < kMaxGridY ? args.rows : kMaxGridY));
  if (args.vocab % 4 == 0 && IsAligned(args.logits, 16)) {
    PartMaxKernel<4><<<grid, kThreads, 0, stream>>>(args);
  } else {
    PartMaxKernel<1><<<grid, kThreads, 0, stream>>>(args);
  }
  ChooseKernel<<<BlocksOf(args.rows, kWarps), kThreads, 0, stream>>>(args);
  return CheckLaunch("ArgMax");
}

}  // namespace longspan::cuda
