#ifndef LONGSPAN_KERNELS_CUDA_NUMBERS_CUH_
#define LONGSPAN_KERNELS_CUDA_NUMBERS_CUH_

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_fp8.h>

#include <cstdint>
#include <type_traits>

#include "absl/status/status.h"
#include "kernels/base/dtype.h"

// Numbers in device code, and what their launches ask.
namespace longspan::cuda {

__device__ inline float ToFloat(float value) { return value; }
__device__ inline float ToFloat(__nv_bfloat16 value) { return __bfloat162float(value); }
__device__ inline float ToFloat(__half value) { return __half2float(value); }
__device__ inline float ToFloat(__nv_fp8_e4m3 value) { return static_cast<float>(value); }

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
template <>
__device__ inline __nv_fp8_e4m3 FromFloat<__nv_fp8_e4m3>(float value) {
  return __nv_fp8_e4m3(value);  // saturates
}

// Numbers of 8 bits become others two at a time, and so does the hardware convert them: each is one
// of float16, and of bfloat16 too.
template <typename T>
inline constexpr bool kIsFp8 = std::is_same_v<T, __nv_fp8_e4m3>;

__device__ __forceinline__ float2 Fp8ToFloats(uint16_t two) {
  return __half22float2(__half2(__nv_cvt_fp8x2_to_halfraw2(two, __NV_E4M3)));
}
__device__ __forceinline__ uint16_t FloatsToFp8(float first, float second) {
  return __nv_cvt_float2_to_fp8x2(float2{first, second}, __NV_SATFINITE, __NV_E4M3);
}
// As two bfloat16, the first one in the lower half.
__device__ __forceinline__ uint32_t Fp8ToBFloat16(uint16_t two) {
  const float2 floats = Fp8ToFloats(two);
  const __nv_bfloat162 pair = __floats2bfloat162_rn(floats.x, floats.y);
  return *reinterpret_cast<const uint32_t*>(&pair);
}
// Eight numbers, the first in the lowest byte, as bfloat16.
__device__ __forceinline__ uint4 Fp8ToBFloat16(uint2 eight) {
  return {Fp8ToBFloat16(static_cast<uint16_t>(eight.x)),
          Fp8ToBFloat16(static_cast<uint16_t>(eight.x >> 16)),
          Fp8ToBFloat16(static_cast<uint16_t>(eight.y)),
          Fp8ToBFloat16(static_cast<uint16_t>(eight.y >> 16))};
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
    case DType::kFloat8E4M3:
      return absl::UnimplementedError("fp8_e4m3 is supported in caches only");
  }
  return absl::InternalError("unknown dtype");
}

// The same for what a cache may hold.
template <typename F>
absl::Status WithCacheType(DType dtype, F&& f) {
  if (dtype == DType::kFloat16) {
    return absl::UnimplementedError(
        "a float16 cache is not supported: float32, bfloat16 and fp8_e4m3 are");
  }
  if (dtype == DType::kFloat8E4M3) return f.template operator()<__nv_fp8_e4m3>();
  return dtype == DType::kFloat32 ? f.template operator()<float>()
                                  : f.template operator()<__nv_bfloat16>();
}

// kCount consecutive numbers, aligned to all of their bytes (at most 16), as floats.
template <int kCount, typename T>
__device__ void LoadFloats(const T* from, float (&out)[kCount]) {
  if constexpr (kIsFp8<T> && kCount % 2 == 0) {
    struct alignas(kCount) Vector {
      uint16_t twos[kCount / 2];
    };
    const Vector vector = *reinterpret_cast<const Vector*>(from);
#pragma unroll
    for (int i = 0; i < kCount; i += 2) {
      const float2 two = Fp8ToFloats(vector.twos[i / 2]);
      out[i] = two.x;
      out[i + 1] = two.y;
    }
  } else {
    struct alignas(sizeof(T) * kCount) Vector {
      T values[kCount];
    };
    const Vector vector = *reinterpret_cast<const Vector*>(from);
#pragma unroll
    for (int i = 0; i < kCount; ++i) out[i] = ToFloat(vector.values[i]);
  }
}

template <int kCount, typename T>
__device__ void StoreFloats(const float (&values)[kCount], T* to) {
  if constexpr (kIsFp8<T> && kCount % 2 == 0) {
    struct alignas(kCount) Vector {
      uint16_t twos[kCount / 2];
    };
    Vector vector;
#pragma unroll
    for (int i = 0; i < kCount; i += 2) {
      vector.twos[i / 2] = FloatsToFp8(values[i], values[i + 1]);
    }
    *reinterpret_cast<Vector*>(to) = vector;
  } else {
    struct alignas(sizeof(T) * kCount) Vector {
      T values[kCount];
    };
    Vector vector;
#pragma unroll
    for (int i = 0; i < kCount; ++i) vector.values[i] = FromFloat<T>(values[i]);
    *reinterpret_cast<Vector*>(to) = vector;
  }
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
