#ifndef LONGSPAN_KERNELS_CUDA_SAMPLING_H_
#define LONGSPAN_KERNELS_CUDA_SAMPLING_H_

#include <cstdint>

#include "absl/status/status.h"
#include "kernels/cuda/device.h"

namespace longspan::cuda {

// The likeliest token of each row of logits: the lowest id among equals, where NaN is as -inf. It
// is what runtime/sampling.h chooses at temperature 0.
struct ArgMaxArgs {
  const float* logits = nullptr;  // device [rows, vocab]
  int64_t rows = 0;
  int64_t vocab = 0;
  int32_t* ids = nullptr;     // device [rows]
  void* workspace = nullptr;  // device, ArgMaxWorkspaceBytes, aligned to 8 bytes
};
int64_t ArgMaxWorkspaceBytes(int64_t rows);
absl::Status ArgMax(const ArgMaxArgs& args, Stream stream);

}  // namespace longspan::cuda

#endif  // LONGSPAN_KERNELS_CUDA_SAMPLING_H_
