#ifndef LONGSPAN_KERNELS_CUDA_NUMBERS_CUH_
#define LONGSPAN_KERNELS_CUDA_NUMBERS_CUH_

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <cstdint>

#include "absl/status/status.h"
#include "kernels/base/dtype.h"

// Numbers in device code, and what their launches ask.
namespace longspan::cuda {

__device__ inline float ToFloat(float value) { return value; }
__device__ inline float ToFloat(__nv_bfloat16 value) { return __bfloat162float(value); }
__device__ inline float ToFloat(__half value) { return __half2float(value); }

template <typename T>
__device__ T FromFloat(float value);
template <>
__device__ inline float FromFloat<float>(float value) {
  return value;
}
template <>
__device__ inline __nv_bfloat16 FromFloat<__nv_bfloat16>(float value) {
  return __float2bfloat16_rn(value);
}
template <>
__device__ inline __half FromFloat<__half>(float value) {
  return __float2half_rn(value);
}

// The one place where a runtime dtype becomes a type: f.template operator()<T>().
template <typename F>
absl::Status WithType(DType dtype, F&& f) {
  switch (dtype) {
    case DType::kFloat32:
      return f.template operator()<float>();
    case DType::kBFloat16:
      return f.template operator()<__nv_bfloat16>();
    case DType::kFloat16:
      return f.template operator()<__half>();
  }
  return absl::InternalError("unknown dtype");
}

// The same for what a cache may hold.
template <typename F>
absl::Status WithCacheType(DType dtype, F&& f) {
  if (dtype == DType::kFloat16) {
    return absl::UnimplementedError("a float16 cache is not supported: float32 and bfloat16 are");
  }
  return dtype == DType::kFloat32 ? f.template operator()<float>()
                                  : f.template operator()<__nv_bfloat16>();
}

// kCount consecutive numbers, aligned to all of their bytes (at most 16), as floats.
template <int kCount, typename T>
__device__ void LoadFloats(const T* from, float (&out)[kCount]) {
  struct alignas(sizeof(T) * kCount) Vector {
    T values[kCount];
  };
  const Vector vector = *reinterpret_cast<const Vector*>(from);
#pragma unroll
  for (int i = 0; i < kCount; ++i) out[i] = ToFloat(vector.values[i]);
}

template <int kCount, typename T>
__device__ void StoreFloats(const float (&values)[kCount], T* to) {
  struct alignas(sizeof(T) * kCount) Vector {
    T values[kCount];
  };
  Vector vector;
#pragma unroll
  for (int i = 0; i < kCount; ++i) vector.values[i] = FromFloat<T>(values[i]);
  *reinterpret_cast<Vector*>(to) = vector;
}

// Of a grid.
inline unsigned BlocksOf(int64_t count, int64_t per_block) {
  return static_cast<unsigned>((count + per_block - 1) / per_block);
}

inline bool IsAligned(const void* pointer, int64_t bytes) {
  return reinterpret_cast<uintptr_t>(pointer) % bytes == 0;
}

}  // namespace longspan::cuda

#endif  // LONGSPAN_KERNELS_CUDA_NUMBERS_CUH_
