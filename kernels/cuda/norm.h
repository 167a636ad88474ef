#ifndef LONGSPAN_KERNELS_CUDA_NORM_H_
#define LONGSPAN_KERNELS_CUDA_NORM_H_

#include <cstdint>

#include "absl/status/status.h"
#include "kernels/base/dtype.h"
#include "kernels/cuda/device.h"

// The operations of kernels/norm.h and AddBias of kernels/linear.h. Arithmetic is in float, with
// one rounding to the dtype of the output; a row's bits do not depend on the others.
namespace longspan::cuda {

// out[r] = x[r] / sqrt(mean(x[r]^2) + epsilon) * weight. out may be x if it is float32. The norm of
// each head is that of rows * heads rows of head_dim.
struct RmsNormArgs {
  const float* x = nullptr;       // [rows, dim]
  const float* weight = nullptr;  // [dim]; no kernel in the stream writes it (LinearArgs)
  int64_t rows = 0;
  int64_t dim = 0;
  float epsilon = 0;
  void* out = nullptr;  // [rows, dim], of `out_dtype`
  DType out_dtype = DType::kFloat32;
};
absl::Status RmsNorm(const RmsNormArgs& args, Stream stream);

// out = silu(gate) * up, elementwise. out may be gate or up if the dtypes are the same and there is
// one row.
struct SwiGluArgs {
  const void* gate = nullptr;  // [rows, count], of `dtype`, rows `stride` numbers apart
  const void* up = nullptr;    // the same
  DType dtype = DType::kFloat32;
  int64_t count = 0;
  void* out = nullptr;  // [rows, count], of `out_dtype`
  DType out_dtype = DType::kFloat32;
  int64_t rows = 1;
  int64_t stride = 0;
};
absl::Status SwiGlu(const SwiGluArgs& args, Stream stream);

// y[r] += bias.
struct AddBiasArgs {
  const float* bias = nullptr;  // [out]
  int64_t rows = 0;
  int64_t out = 0;
  void* y = nullptr;  // [rows, out], of `dtype`
  DType dtype = DType::kFloat32;
};
absl::Status AddBias(const AddBiasArgs& args, Stream stream);

}  // namespace longspan::cuda

#endif  // LONGSPAN_KERNELS_CUDA_NORM_H_
