#include <cuda_runtime.h>

#include <algorithm>

#include "collectives/device_steps.h"
#include "kernels/base/status_macros.h"

namespace longspan {
namespace {

constexpr int kThreads = 256;
constexpr int64_t kMaxBlocks = 2048;

// The steps of ordered_float.h on bits, which no compiler flag for fast arithmetic can change.
struct OrderedFromFloat {
  __device__ int32_t operator()(int32_t bits) const {
    constexpr int32_t kInfinity = 0x7f800000;
    if ((bits & 0x7fffffff) > kInfinity) bits = static_cast<int32_t>(0xff800000u);  // NaN: -inf
    return bits ^ ((bits >> 31) & 0x7fffffff);
  }
};
struct FloatFromOrdered {
  __device__ int32_t operator()(int32_t ordered) const {
    return ordered ^ ((ordered >> 31) & 0x7fffffff);
  }
};

template <typename Step>
__global__ void MapBitsKernel(int32_t* data, int64_t count) {
  const int64_t threads = int64_t{gridDim.x} * kThreads;
  for (int64_t i = int64_t{blockIdx.x} * kThreads + threadIdx.x; i < count; i += threads) {
    data[i] = Step()(data[i]);
  }
}

template <typename Step>
absl::Status MapBits(float* data, int64_t count, const char* name, cuda::Stream stream) {
  if (count == 0) return absl::OkStatus();
  const int64_t blocks = std::min(kMaxBlocks, (count + kThreads - 1) / kThreads);
  MapBitsKernel<Step><<<static_cast<unsigned>(blocks), kThreads, 0, stream>>>(
      reinterpret_cast<int32_t*>(data), count);
  return cuda::CheckLaunch(name);
}

}  // namespace

absl::Status OrderedFromFloats(float* data, int64_t count, cuda::Stream stream) {
  return MapBits<OrderedFromFloat>(data, count, "OrderedFromFloats", stream);
}

absl::Status FloatsFromOrdered(float* data, int64_t count, cuda::Stream stream) {
  return MapBits<FloatFromOrdered>(data, count, "FloatsFromOrdered", stream);
}

absl::Status CopyToSelf(absl::Span<const Transfer> sends, absl::Span<const Transfer> receives,
                        int rank, cuda::Stream stream) {
  auto receive = receives.begin();
  for (const Transfer& send : sends) {
    if (send.peer != rank || send.bytes == 0) continue;
    while (receive->peer != rank || receive->bytes == 0) ++receive;
    if (receive->data != send.data) {
      LONGSPAN_RETURN_IF_ERROR(cuda::Copy(receive->data, send.data, send.bytes, stream));
    }
    ++receive;
  }
  return absl::OkStatus();
}

}  // namespace longspan
