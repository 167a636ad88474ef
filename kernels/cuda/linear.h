#ifndef LONGSPAN_KERNELS_CUDA_LINEAR_H_
#define LONGSPAN_KERNELS_CUDA_LINEAR_H_

#include <cstdint>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "kernels/base/dtype.h"
#include "kernels/cuda/device.h"

namespace longspan::cuda {

// y = x W^T, or y += x W^T. Products and sums are in float, those of float32 without TF32.
struct LinearArgs {
  const void* x = nullptr;  // [rows, in], of `dtype`
  int64_t rows = 0;
  int64_t in = 0;
  // [out, in], of `dtype`. Read before earlier launches have ended: no kernel in the stream writes
  // it.
  const void* weight = nullptr;
  DType dtype = DType::kFloat32;
  int64_t out = 0;
  void* y = nullptr;                // [rows, out], of `y_dtype`
  DType y_dtype = DType::kFloat32;  // float32, or `dtype`
  bool accumulate = false;
};

// Up to so many rows are a matter of reading the weight once.
inline constexpr int64_t kMaxFewRows = 8;

// "cuBLASLt 130000": whose choice of kernels bits depend on.
std::string LinearLibrary();

// What products of many rows need: a handle of cuBLASLt, its workspace, and the algorithms chosen
// so far. Of one device, and of one stream at a time, for the workspace is shared.
class LinearPlans {
 public:
  // ResourceExhausted: no room on the GPU. Internal: cuBLASLt failed.
  static absl::StatusOr<LinearPlans> Create();
  // Bytes of device memory that Create allocates.
  static int64_t Bytes();
  LinearPlans(LinearPlans&&) noexcept;
  LinearPlans& operator=(LinearPlans&&) noexcept;
  ~LinearPlans();

 private:
  friend absl::Status Linear(const LinearArgs& args, LinearPlans* plans, Stream stream);
  struct Impl;
  explicit LinearPlans(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

// Any number of rows: few of them as LinearFewRows, more through cuBLASLt, whose kernels, and with
// them the bits, depend on the shape. Runs with the same arguments give the same bits.
// InvalidArgument: a y_dtype that is not one of the two.
absl::Status Linear(const LinearArgs& args, LinearPlans* plans, Stream stream);

// Reads the weight once for each kMaxFewRows rows. A row's bits do not depend on the others, nor on
// how many they are. It is fastest where `in` is a multiple of 8 (of 4 with float32) and x and
// weight are aligned to 16 bytes; other cases are summed in another order.
// InvalidArgument: as Linear.
absl::Status LinearFewRows(const LinearArgs& args, Stream stream);

// What a product of few rows does on the way, with the bits of the launches it stands for.
struct LinearFusion {
  // x is float32, and each row is normed first, as by RmsNorm to `dtype`.
  const float* norm = nullptr;  // [in], aligned to 16 bytes; no kernel in the stream writes it
  float epsilon = 0;
  // Added to the sums. y is float32.
  const float* bias = nullptr;  // [out]
  // weight is [gate; up], out / 2 outputs each, and y [rows, out / 2] of `dtype`: what SwiGlu makes
  // of the product in float32. Gates and ups are never rounded to `dtype`, as they are where the
  // product is written as `dtype` and SwiGlu reads that.
  bool swiglu = false;
  // If there are any, the last 2 * kv_dim outputs go to keys and values, and y is [rows, out - 2 *
  // kv_dim] of float32.
  int64_t kv_dim = 0;
  float* keys = nullptr;    // [rows, kv_dim]
  float* values = nullptr;  // [rows, kv_dim]
};

// Whether LinearFewRows does that, for arguments that are no error: of numbers of 16 bits where it
// is fastest, of as many rows, inputs and outputs as a launch can count (half a million rows, 2^30
// of the others), and with a norm of one or two rows, whose blocks have room for them.
bool LinearFuses(const LinearArgs& args, const LinearFusion& fusion);

// InvalidArgument: as Linear; what LinearFuses denies; a y_dtype other than said above;
// `accumulate` or a bias with swiglu, `accumulate` or swiglu with keys and values.
absl::Status LinearFewRows(const LinearArgs& args, const LinearFusion& fusion, Stream stream);

}  // namespace longspan::cuda

#endif  // LONGSPAN_KERNELS_CUDA_LINEAR_H_
