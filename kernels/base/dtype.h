#ifndef LONGSPAN_KERNELS_BASE_DTYPE_H_
#define LONGSPAN_KERNELS_BASE_DTYPE_H_

#include <bit>
#include <cstdint>
#include <string_view>

namespace longspan {

enum class DType : uint8_t { kFloat32, kBFloat16, kFloat16 };

constexpr int64_t SizeOf(DType dtype) { return dtype == DType::kFloat32 ? 4 : 2; }

constexpr std::string_view DTypeName(DType dtype) {
  constexpr std::string_view kNames[] = {"float32", "bfloat16", "float16"};
  return kNames[static_cast<int>(dtype)];
}

// Storage types: arithmetic is always in float.
struct BFloat16 {
  uint16_t bits;
};
struct Float16 {
  uint16_t bits;
};

inline float ToFloat(float value) { return value; }
inline float ToFloat(BFloat16 value) {
  return std::bit_cast<float>(static_cast<uint32_t>(value.bits) << 16);
}
float ToFloat(Float16 value);

// Round to nearest even; NaN stays NaN.
inline BFloat16 ToBFloat16(float value) {
  const uint32_t bits = std::bit_cast<uint32_t>(value);
  if (value != value) return {static_cast<uint16_t>((bits >> 16) | 0x40)};
  return {static_cast<uint16_t>((bits + 0x7fff + ((bits >> 16) & 1)) >> 16)};
}

inline void FromFloat(float value, float* out) { *out = value; }
inline void FromFloat(float value, BFloat16* out) { *out = ToBFloat16(value); }

// IEEE binary16 by its fields: exact for every value, subnormals, infinities and NaN included.
inline float ToFloat(Float16 value) {
  const uint32_t sign = static_cast<uint32_t>(value.bits & 0x8000) << 16;
  const uint32_t exponent = (value.bits >> 10) & 0x1f;
  const uint32_t mantissa = value.bits & 0x3ff;
  if (exponent == 31) return std::bit_cast<float>(sign | 0x7f800000 | (mantissa << 13));
  if (exponent != 0) return std::bit_cast<float>(sign | ((exponent + 112) << 23) | (mantissa << 13));
  const float magnitude = static_cast<float>(mantissa) * 0x1p-24f;
  return sign ? -magnitude : magnitude;
}

}  // namespace longspan

#endif  // LONGSPAN_KERNELS_BASE_DTYPE_H_
