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
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/linear.h"
#include "kernels/cuda/numbers.cuh"

namespace longspan::cuda {
namespace {

constexpr int kWarp = 32;
constexpr int kWarps = 8;
constexpr int kThreads = kWarps * kWarp;
constexpr int kFewRows = static_cast<int>(kMaxFewRows);
constexpr int64_t kMaxLaunchRows = 65535 * kMaxFewRows;  // gridDim.y; keeps the rest aligned

// What the sum at `at` of y is added to. Read early, for it comes from afar.
__device__ float Before(const LinearArgs& args, int64_t at) {
  if (!args.accumulate) return 0;
  switch (args.y_dtype) {
    case DType::kFloat32:
      return static_cast<const float*>(args.y)[at];
    case DType::kBFloat16:
      return ToFloat(static_cast<const __nv_bfloat16*>(args.y)[at]);
    case DType::kFloat16:
      return ToFloat(static_cast<const __half*>(args.y)[at]);
    case DType::kFloat8E4M3:
      break;  // refused by the launch
  }
  return 0;
}

__device__ void Put(const LinearArgs& args, int64_t at, float value) {
  switch (args.y_dtype) {
    case DType::kFloat32:
      static_cast<float*>(args.y)[at] = value;
      return;
    case DType::kBFloat16:
      static_cast<__nv_bfloat16*>(args.y)[at] = FromFloat<__nv_bfloat16>(value);
      return;
    case DType::kFloat16:
      static_cast<__half*>(args.y)[at] = FromFloat<__half>(value);
      return;
    case DType::kFloat8E4M3:
      return;  // refused by the launch
  }
}

// ---- Few rows of 16-bit numbers ----
//
// A block has 16 outputs of 8 rows. A step is 32 inputs, of which each of the 4 lanes of a group
// reads 8 of the group's two outputs and 8 of the group's row, 16 bytes each; the warps take steps
// in turn. Tensor cores multiply, so that 8 rows cost no more instructions than one. Which number a
// fragment calls its k-th is free as long as both operands agree.
//
// Weights come through a ring in shared memory: copies in flight take no registers there, and leave
// the first-level cache to x, which every block reads. Each lane reads what it copied itself, so
// that nobody waits for anybody. x comes from the second-level cache, or from the first where
// another block was faster; a step takes less time than that, and so x is read several ahead.
//
// A block starts while the kernels before it still run, and fills its ring. The rings of all
// blocks are what the memory does meanwhile, and should last until those kernels have ended.

constexpr int kOutputs = 16;    // of a block
constexpr int kLaneInputs = 8;  // 16 bytes
constexpr int kStepInputs = 4 * kLaneInputs;
constexpr int kBlockInputs = kWarps * kStepInputs;  // of one step of every warp
constexpr int kSlots = 6;                           // steps of a warp's ring
constexpr int kAhead = 3;                           // steps that x is ahead
// On a multiprocessor, by registers: one more than by shared memory, for small kernels among them.
constexpr int kMinBlocks = 5;
static_assert(kSlots % kAhead == 0);
// Per cent of an H100's 228 KiB that are shared memory: 196 KiB, the rings of 4 blocks. With one
// row, what is left as a cache holds 28672 inputs.
constexpr int kSharedPercent = 85;

// sum[output, row] += weight[output, 16] x[row, 16]^T, in the fragments of m16n8k16. `upper` is of
// the first 8 outputs, `lower` of the others.
template <typename T>
__device__ void AddProducts(uint32_t upper0, uint32_t upper1, uint32_t lower0, uint32_t lower1,
                            uint32_t x0, uint32_t x1, float (&sum)[4]) {
  if constexpr (std::is_same_v<T, __half>) {
    asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, "
        "{%8, %9}, {%0, %1, %2, %3};"
        : "+f"(sum[0]), "+f"(sum[1]), "+f"(sum[2]), "+f"(sum[3])
        : "r"(upper0), "r"(lower0), "r"(upper1), "r"(lower1), "r"(x0), "r"(x1));
  } else {
    asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, "
        "{%8, %9}, {%0, %1, %2, %3};"
        : "+f"(sum[0]), "+f"(sum[1]), "+f"(sum[2]), "+f"(sum[3])
        : "r"(upper0), "r"(lower0), "r"(upper1), "r"(lower1), "r"(x0), "r"(x1));
  }
}

// What a lane reads, pieces of 16 bytes for each step; pieces beyond the inputs are zeros. Steps
// count from a multiple of kSlots on, so that each has its place in the ring.
template <typename T>
struct Lane {
  const T* x;
  const T* upper;  // weights
  const T* lower;
  int left;     // inputs from its first one on
  int steps;    // of its warp
  uint4* ring;  // [kSlots, 2, kWarp], from its own place on

  // Not __ldg: the kernel before this one may have written it after this one had started.
  __device__ uint4 LoadX(int step) const {
    const int k = step * kBlockInputs;
    return k < left ? *reinterpret_cast<const uint4*>(x + k) : uint4{};
  }
  __device__ uint4* Slot(int step) const { return ring + step % kSlots * 2 * kWarp; }
  // Every step is a group of copies, those after the last one are empty.
  __device__ void CopyWeights(int step) const {
    const int k = step * kBlockInputs;
    if (step < steps) {
      CopyAsync(Slot(step), upper + k, k < left);
      CopyAsync(Slot(step) + kWarp, lower + k, k < left);
    }
    CommitCopies();
  }
  __device__ void Advance() {
    x += kSlots * kBlockInputs;
    upper += kSlots * kBlockInputs;
    lower += kSlots * kBlockInputs;
    left -= kSlots * kBlockInputs;
    steps -= kSlots;
  }
};

// The copies of kSlots - 1 steps are under way. even and odd: the fragments of the sums over the
// even and odd halves of lanes' pieces.
template <typename T>
__device__ void AddSteps(Lane<T> lane, float (&even)[4], float (&odd)[4]) {
  uint4 ahead[kAhead];
#pragma unroll
  for (int step = 0; step < kAhead; ++step) ahead[step] = lane.LoadX(step);
  for (; lane.steps > 0; lane.Advance()) {
#pragma unroll
    for (int step = 0; step < kSlots; ++step) {
      if (step >= lane.steps) break;
      AwaitCopies<kSlots - 2>();
      const uint4 upper = *lane.Slot(step);
      const uint4 lower = *(lane.Slot(step) + kWarp);
      const uint4 x = ahead[step % kAhead];
      AddProducts<T>(upper.x, upper.y, lower.x, lower.y, x.x, x.y, even);
      AddProducts<T>(upper.z, upper.w, lower.z, lower.w, x.z, x.w, odd);
      ahead[step % kAhead] = lane.LoadX(step + kAhead);
      // Into the slot that was read a step ago.
      lane.CopyWeights(step + kSlots - 1);
    }
  }
}

// in is a multiple of kLaneInputs, and x and weight are aligned to 16 bytes.
template <typename T>
__global__ void __launch_bounds__(kThreads, kMinBlocks) FewRowsKernel(LinearArgs args) {
  LetSuccessorsStart();
  __shared__ uint4 rings[kWarps][kSlots][2][kWarp];
  const int warp = threadIdx.x / kWarp;
  const int group = threadIdx.x % kWarp / 4;
  const int part = threadIdx.x % 4;
  const int64_t first_row = int64_t{blockIdx.y} * kFewRows;
  const int64_t first_output = int64_t{blockIdx.x} * kOutputs;
  // Groups beyond the end repeat the last row or output, and nobody looks at the result.
  const int64_t row = min(first_row + group, args.rows - 1);
  const int64_t upper = min(first_output + group, args.out - 1);
  const int64_t lower = min(first_output + group + kOutputs / 2, args.out - 1);
  const int in = static_cast<int>(args.in);
  const int first = warp * kStepInputs + part * kLaneInputs;
  Lane<T> lane;
  lane.x = static_cast<const T*>(args.x) + row * args.in + first;
  lane.upper = static_cast<const T*>(args.weight) + upper * args.in + first;
  lane.lower = static_cast<const T*>(args.weight) + lower * args.in + first;
  lane.left = in - first;
  // The same for all lanes of a warp, which multiply together.
  lane.steps = max(in - warp * kStepInputs + kBlockInputs - 1, 0) / kBlockInputs;
  lane.ring = &rings[warp][0][0][threadIdx.x % kWarp];
#pragma unroll
  for (int step = 0; step < kSlots - 1; ++step) lane.CopyWeights(step);
  WaitForPredecessors();
  // The thread's own sum.
  const int r = threadIdx.x / kOutputs;
  const int o = threadIdx.x % kOutputs;
  const bool puts = r < kFewRows && first_row + r < args.rows && first_output + o < args.out;
  const int64_t at = (first_row + r) * args.out + first_output + o;
  const float before = puts ? Before(args, at) : 0;
  float even[4] = {}, odd[4] = {};
  AddSteps(lane, even, odd);
  // The warp's sums [kFewRows, kOutputs] take the place of its ring, of which all was read.
  __syncwarp();
  float* sums = reinterpret_cast<float*>(&rings[warp][0][0][0]);
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    sums[(2 * part + i % 2) * kOutputs + group + i / 2 * (kOutputs / 2)] = even[i] + odd[i];
  }
  __syncthreads();
  if (!puts) return;
  float sum = 0;
#pragma unroll
  for (int w = 0; w < kWarps; ++w) {
    sum += reinterpret_cast<const float*>(&rings[w][0][0][0])[r * kOutputs + o];
  }
  Put(args, at, before + sum);
}

template <typename T>
absl::Status LaunchFewRows(const LinearArgs& args, Stream stream) {
  LONGSPAN_RETURN_IF_ERROR(
      ToStatus(cudaFuncSetAttribute(FewRowsKernel<T>,
                                    cudaFuncAttributePreferredSharedMemoryCarveout, kSharedPercent),
               "cudaFuncSetAttribute"));
  const dim3 grid(BlocksOf(args.out, kOutputs), BlocksOf(args.rows, kFewRows));
  LaunchAfter(FewRowsKernel<T>, grid, kThreads, 0, stream, args);
  return CheckLaunch("LinearFewRows");
}

// ---- Few rows of float32, or of any shape and alignment ----

// A warp has an output of kRows rows, a lane every 32nd vector of inputs. Every sum is in the same
// order whatever kRows is.
template <typename T, int kVector, int kRows>
__global__ void __launch_bounds__(kThreads) DotKernel(LinearArgs args) {
  LetSuccessorsStart();
  WaitForPredecessors();
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
    if (lane == r && first_row + r < args.rows) {
      const int64_t at = (first_row + r) * args.out + output;
      Put(args, at, Before(args, at) + sums[r]);
    }
  }
}

template <typename T, int kVector>
void LaunchDots(const LinearArgs& args, Stream stream) {
  const auto launch = [&]<int kRows>(std::integral_constant<int, kRows>) {
    const dim3 grid(BlocksOf(args.out, kWarps), BlocksOf(args.rows, kRows));
    LaunchAfter(DotKernel<T, kVector, kRows>, grid, kThreads, 0, stream, args);
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
  if (args.rows > kMaxLaunchRows) {
    LinearArgs first = args, rest = args;
    first.rows = kMaxLaunchRows;
    rest.rows -= kMaxLaunchRows;
    rest.x = static_cast<const std::byte*>(args.x) + first.rows * args.in * SizeOf(args.dtype);
    rest.y = static_cast<std::byte*>(args.y) + first.rows * args.out * SizeOf(args.y_dtype);
    LONGSPAN_RETURN_IF_ERROR(LinearFewRows(first, stream));
    return LinearFewRows(rest, stream);
  }
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
