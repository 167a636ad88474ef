#include <cuda_runtime.h>

#include "kernels/cuda/embed.h"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/numbers.cuh"

namespace longspan::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kVector = 4;  // floats of one store

// Block (r, b) has the columns of row r that are its threads' in a grid of gridDim.y blocks.
template <typename T, int kCount>
__global__ void __launch_bounds__(kThreads) EmbedKernel(EmbedArgs args) {
  LetSuccessorsStart();
  WaitForPredecessors();
  const int64_t row = blockIdx.x;
  const T* from = static_cast<const T*>(args.table) + args.ids[row] * args.hidden;
  float* to = args.out + row * args.hidden;
  for (int64_t i = (int64_t{blockIdx.y} * kThreads + threadIdx.x) * kCount; i < args.hidden;
       i += int64_t{gridDim.y} * kThreads * kCount) {
    float values[kCount];
    LoadFloats(from + i, values);
    StoreFloats(values, to + i);
  }
}

}  // namespace

absl::Status Embed(const EmbedArgs& args, Stream stream) {
  if (args.rows == 0 || args.hidden == 0) return absl::OkStatus();
  const auto rows = static_cast<unsigned>(args.rows);
  const dim3 grid(rows, args.hidden > kThreads * kVector ? 4 : 1);
  return WithType(args.dtype, [&]<typename T>() {
    if (args.hidden % kVector == 0 && IsAligned(args.table, kVector * sizeof(T)) &&
        IsAligned(args.out, kVector * sizeof(float))) {
      LaunchAfter(EmbedKernel<T, kVector>, grid, kThreads, 0, stream, args);
    } else {
      LaunchAfter(EmbedKernel<T, 1>, grid, kThreads, 0, stream, args);
    }
    return CheckLaunch("Embed");
  });
}

}  // namespace longspan::cuda
