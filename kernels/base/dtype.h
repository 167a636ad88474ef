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

// Round to nearest even; NaN stays NaN.
inline BFloat16 ToBFloat16(float value) {
  const uint32_t bits = std::bit_cast<uint32_t>(value);
  if (value != value) return {static_cast<uint16_t>((bits >> 16) | 0x40)};
  return {static_cast<uint16_t>((bits + 0x7fff + ((bits >> 16) & 1)) >> 16)};
}

inline void FromFloat(float value, float* out) { *out = value; }
inline void FromFloat(float value, BFloat16* out) { *out = ToBFloat16(value); }

// IEEE binary16, exact for every value: its magnitude's bits, moved into a float's, are off by the
// difference of the exponents' biases, which a product corrects for subnormals too.
inline float ToFloat(Float16 value) {
  const uint32_t sign = static_cast<uint32_t>(value.bits & 0x8000) << 16;
  const uint32_t magnitude = static_cast<uint32_t>(value.bits & 0x7fff) << 13;
  const uint32_t finite = std::bit_cast<uint32_t>(std::bit_cast<float>(magnitude) * 0x1p112f);
  constexpr uint32_t kInfinity = 0x7c00u << 13;
  return std::bit_cast<float>(sign | (magnitude >= kInfinity ? magnitude | 0x7f800000 : finite));
}

}  // namespace longspan

#endif  // LONGSPAN_KERNELS_BASE_DTYPE_H_
