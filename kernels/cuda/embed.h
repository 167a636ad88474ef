#ifndef LONGSPAN_KERNELS_CUDA_EMBED_H_
#define LONGSPAN_KERNELS_CUDA_EMBED_H_

#include <cstdint>

#include "absl/status/status.h"
#include "kernels/base/dtype.h"
#include "kernels/cuda/device.h"

namespace longspan::cuda {

// out[r] = table[ids[r]] as floats.
struct EmbedArgs {
  const void* table = nullptr;  // [vocabulary, hidden], of `dtype`
  DType dtype = DType::kFloat32;
  const int32_t* ids = nullptr;  // [rows], each a row of the table
  int64_t rows = 0;
  int64_t hidden = 0;
  float* out = nullptr;  // [rows, hidden]
};
absl::Status Embed(const EmbedArgs& args, Stream stream);

}  // namespace longspan::cuda

#endif  // LONGSPAN_KERNELS_CUDA_EMBED_H_
