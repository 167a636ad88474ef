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
#include "kernels/cuda/linear.h"
#include "kernels/cuda/numbers.cuh"

namespace longspan::cuda {
namespace {

constexpr int kWarp = 32;
constexpr int kWarps = 8;
constexpr int kThreads = kWarps * kWarp;
constexpr int kFewRows = static_cast<int>(kMaxFewRows);

template <typename T>
__device__ void PutAs(void* data, int64_t at, bool accumulate, float value) {
  T* y = static_cast<T*>(data) + at;
  *y = FromFloat<T>(accumulate ? ToFloat(*y) + value : value);
}

__device__ void Put(const LinearArgs& args, int64_t row, int64_t output, float value) {
  const int64_t at = row * args.out + output;
  switch (args.y_dtype) {
    case DType::kFloat32:
      return PutAs<float>(args.y, at, args.accumulate, value);
    case DType::kBFloat16:
      return PutAs<__nv_bfloat16>(args.y, at, args.accumulate, value);
    case DType::kFloat16:
      return PutAs<__half>(args.y, at, args.accumulate, value);
    case DType::kFloat8E4M3:
      return;  // refused by the launch
  }
}

// ---- Few rows of 16-bit numbers ----
//
// A block has 8 outputs of 8 rows. A step is 32 inputs, of which each of the 4 lanes of a group
// reads 8 of the group's output and 8 of the group's row, 16 bytes each; the warps take steps in
// turn. Tensor cores multiply, so that 8 rows cost no more instructions than one. Which number a
// fragment calls its k-th is free as long as both operands agree.
//
// Weights come through a ring in shared memory: copies in flight take no registers there, and leave
// the first-level cache to x, which every block reads. Each lane reads what it copied itself, so
// that nobody waits for anybody.

constexpr int kOutputs = 8;     // of a block
constexpr int kLaneInputs = 8;  // 16 bytes
constexpr int kStepInputs = 4 * kLaneInputs;
constexpr int kBlockInputs = kWarps * kStepInputs;  // of one step of every warp
constexpr int kSlots = 8;                           // steps of a warp's ring
constexpr int kMinBlocks = 4;                       // on a multiprocessor
// Per cent of an H100's 228 KiB that are shared memory: 132 KiB, the rings of 4 blocks. What is
// left as a cache holds 8 rows of 4096 inputs.
constexpr int kSharedPercent = 57;

// sum[row, output] += x[row, 16] weight[output, 16]^T, in the fragments of m16n8k16: rows are those
// of the first operand's upper half, its lower half is zero.
template <typename T>
__device__ void AddProducts(uint32_t x0, uint32_t x1, uint32_t weight0, uint32_t weight1,
                            float (&sum)[4]) {
  if constexpr (std::is_same_v<T, __half>) {
    asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %5}, "
        "{%7, %8}, {%0, %1, %2, %3};"
        : "+f"(sum[0]), "+f"(sum[1]), "+f"(sum[2]), "+f"(sum[3])
        : "r"(x0), "r"(0), "r"(x1), "r"(weight0), "r"(weight1));
  } else {
    asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %5}, "
        "{%7, %8}, {%0, %1, %2, %3};"
        : "+f"(sum[0]), "+f"(sum[1]), "+f"(sum[2]), "+f"(sum[3])
        : "r"(x0), "r"(0), "r"(x1), "r"(weight0), "r"(weight1));
  }
}

// What a lane reads, a piece of 16 bytes for each step; pieces beyond the inputs are zeros.
template <typename T>
struct Lane {
  const T* x;
  const T* weight;
  int left;     // inputs from its first one on
  int steps;    // of its warp
  uint4* ring;  // [kSlots, kWarp], from its own place on

  __device__ uint4 LoadX(int step) const {
    const int k = step * kBlockInputs;
    return k < left ? __ldg(reinterpret_cast<const uint4*>(x + k)) : uint4{};
  }
  __device__ uint4* Slot(int step) const { return ring + step % kSlots * kWarp; }
  // Every step is a group of copies, those after the last one are empty.
  __device__ void CopyWeights(int step) const {
    const int k = step * kBlockInputs;
    if (step < steps) {
      CopyAsync(Slot(step), weight + k, k < left);
    }
    CommitCopies();
  }
};

// even and odd: the fragments of the sums over the lane's even and odd halves of pieces.
template <typename T>
__device__ void AddSteps(const Lane<T>& lane, float (&even)[4], float (&odd)[4]) {
#pragma unroll
  for (int step = 0; step < kSlots - 1; ++step) lane.CopyWeights(step);
  uint4 x = lane.LoadX(0);
#pragma unroll kSlots
  for (int step = 0; step < lane.steps; ++step) {
    AwaitCopies<kSlots - 2>();
    const uint4 weights = *lane.Slot(step);
    const uint4 next_x = lane.LoadX(step + 1);
    AddProducts<T>(x.x, x.y, weights.x, weights.y, even);
    AddProducts<T>(x.z, x.w, weights.z, weights.w, odd);
    // Into the slot that was read a step ago.
    lane.CopyWeights(step + kSlots - 1);
    x = next_x;
  }
}

// in is a multiple of kLaneInputs, and x and weight are aligned to 16 bytes.
template <typename T>
__global__ void __launch_bounds__(kThreads, kMinBlocks) FewRowsKernel(LinearArgs args) {
  __shared__ uint4 rings[kWarps][kSlots][kWarp];
  const int warp = threadIdx.x / kWarp;
  const int group = threadIdx.x % kWarp / 4;
  const int part = threadIdx.x % 4;
  const int64_t first_row = int64_t{blockIdx.y} * kFewRows;
  const int64_t first_output = int64_t{blockIdx.x} * kOutputs;
  // Groups beyond the end repeat the last row or output, and nobody looks at the result.
  const int64_t row = min(first_row + group, args.rows - 1);
  const int64_t output = min(first_output + group, args.out - 1);
  const int in = static_cast<int>(args.in);
  const int first = warp * kStepInputs + part * kLaneInputs;
  Lane<T> lane;
  lane.x = static_cast<const T*>(args.x) + row * args.in + first;
  lane.weight = static_cast<const T*>(args.weight) + output * args.in + first;
  lane.left = in - first;
  // The same for all lanes of a warp, which multiply together.
  lane.steps = max(in - warp * kStepInputs + kBlockInputs - 1, 0) / kBlockInputs;
  lane.ring = &rings[warp][0][threadIdx.x % kWarp];
  float even[4] = {}, odd[4] = {};
  AddSteps(lane, even, odd);
  // The warp's sums [kFewRows, kOutputs] take the place of its ring, of which all was read.
  __syncwarp();
  float* sums = reinterpret_cast<float*>(&rings[warp][0][0]);
  sums[group * kOutputs + 2 * part] = even[0] + odd[0];
  sums[group * kOutputs + 2 * part + 1] = even[1] + odd[1];
  __syncthreads();
  const int r = threadIdx.x / kOutputs;
  const int o = threadIdx.x % kOutputs;
  if (r >= kFewRows || first_row + r >= args.rows || first_output + o >= args.out) return;
  float sum = 0;
#pragma unroll
  for (int w = 0; w < kWarps; ++w) {
    sum += reinterpret_cast<const float*>(&rings[w][0][0])[r * kOutputs + o];
  }
  Put(args, first_row + r, first_output + o, sum);
}

template <typename T>
absl::Status LaunchFewRows(const LinearArgs& args, Stream stream) {
  LONGSPAN_RETURN_IF_ERROR(
      ToStatus(cudaFuncSetAttribute(FewRowsKernel<T>,
                                    cudaFuncAttributePreferredSharedMemoryCarveout, kSharedPercent),
               "cudaFuncSetAttribute"));
  const dim3 grid(BlocksOf(args.out, kOutputs), BlocksOf(args.rows, kFewRows));
  FewRowsKernel<T><<<grid, kThreads, 0, stream>>>(args);
  return CheckLaunch("LinearFewRows");
}

// ---- Few rows of float32, or of any shape and alignment ----

// A warp has an output of kRows rows, a lane every 32nd vector of inputs. Every sum is in the same
// order whatever kRows is.
template <typename T, int kVector, int kRows>
__global__ void __launch_bounds__(kThreads) DotKernel(LinearArgs args) {
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
    if (lane == r && first_row + r < args.rows) Put(args, first_row + r, output, sums[r]);
  }
}

template <typename T, int kVector>
void LaunchDots(const LinearArgs& args, Stream stream) {
  const auto launch = [&]<int kRows>(std::integral_constant<int, kRows>) {
    const dim3 grid(BlocksOf(args.out, kWarps), BlocksOf(args.rows, kRows));
    DotKernel<T, kVector, kRows><<<grid, kThreads, 0, stream>>>(args);
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
  const bool aligned = IsAligned(args.x, 16) && IsAligned(args.weight, 16);
  return WithType(args.dtype, [&]<typename T>() {
    constexpr bool kIsFloat = std::is_same_v<T, float>;
    constexpr int kVector = 16 / sizeof(T);
    if constexpr (!kIsFloat) {
      if (aligned && args.in % kVector == 0) return LaunchFewRows<T>(args, stream);
    } else if (aligned && args.in % kVector == 0) {
      LaunchDots<T, kVector>(args, stream);
      return CheckLaunch("LinearFewRows");
    }
    LaunchDots<T, 1>(args, stream);
    return CheckLaunch("LinearFewRows");
  });
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

absl::StatusOr<LinearPlans> LinearPlans::Create() {
  auto impl = std::make_unique<Impl>();
  LONGSPAN_RETURN_IF_ERROR(CheckCublas(cublasLtCreate(&impl->handle), "cublasLtCreate"));
  LONGSPAN_ASSIGN_OR_RETURN(impl->workspace, Buffer::Allocate(kWorkspaceBytes));
  return LinearPlans(std::move(impl));
}

absl::Status Linear(const LinearArgs& args, LinearPlans* plans, Stream stream) {
  LONGSPAN_RETURN_IF_ERROR(CheckTypes(args));
  if (args.rows == 0 || args.out == 0) return absl::OkStatus();
  if (args.rows <= kMaxFewRows || args.in == 0) return LinearFewRows(args, stream);
  return plans->impl_->Run(args, stream);
}

}  // namespace longspan::cuda
