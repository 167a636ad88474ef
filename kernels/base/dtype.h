#ifndef LONGSPAN_KERNELS_BASE_DTYPE_H_
#define LONGSPAN_KERNELS_BASE_DTYPE_H_

#include <bit>
#include <cstdint>
#include <string_view>

namespace longspan {

// kFloat8E4M3 is for caches only: the OCP format e4m3fn, which has no infinities, at scale 1.
enum class DType : uint8_t { kFloat32, kBFloat16, kFloat16, kFloat8E4M3 };

constexpr int64_t SizeOf(DType dtype) {
  return dtype == DType::kFloat32 ? 4 : dtype == DType::kFloat8E4M3 ? 1 : 2;
}

constexpr std::string_view DTypeName(DType dtype) {
  constexpr std::string_view kNames[] = {"float32", "bfloat16", "float16", "fp8_e4m3"};
  return kNames[static_cast<int>(dtype)];
}

// Storage types: arithmetic is always in float.
struct BFloat16 {
  uint16_t bits;
};
struct Float16 {
  uint16_t bits;
};
struct Float8E4M3 {
  uint8_t bits;
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

// As for binary16; a magnitude of all ones is the only one that is not finite.
inline float ToFloat(Float8E4M3 value) {
  const uint32_t sign = static_cast<uint32_t>(value.bits & 0x80) << 24;
  const uint32_t magnitude = static_cast<uint32_t>(value.bits & 0x7f) << 20;
  const uint32_t finite = std::bit_cast<uint32_t>(std::bit_cast<float>(magnitude) * 0x1p120f);
  constexpr uint32_t kNotANumber = 0x7fu << 20;
  return std::bit_cast<float>(sign | (magnitude == kNotANumber ? 0x7fc00000 : finite));
}

// Round to nearest even, at most to the largest finite magnitude, 448; NaN stays NaN, without a
// sign, as GPUs have it.
inline Float8E4M3 ToFloat8E4M3(float value) {
  constexpr uint32_t kMaxFinite = 0x7e;
  const uint32_t bits = std::bit_cast<uint32_t>(value);
  const uint32_t magnitude = bits & 0x7fffffff;
  // Subnormal ones are multiples of 2^-9, which is what floats near 2^14 are rounded to.
  const float shifted = std::bit_cast<float>(magnitude) + 0x1p14f;
  const uint32_t subnormal = std::bit_cast<uint32_t>(shifted) - std::bit_cast<uint32_t>(0x1p14f);
  const uint32_t normal = ((magnitude + 0x7ffff + (magnitude >> 20 & 1)) >> 20) - (120u << 3);
  const bool is_normal = magnitude >= std::bit_cast<uint32_t>(0x1p-6f);
  const uint32_t rounded = is_normal ? normal : subnormal;
  const uint32_t finite = (bits >> 24 & 0x80) | (rounded < kMaxFinite ? rounded : kMaxFinite);
  return {static_cast<uint8_t>(value != value ? 0x7f : finite)};
}
inline void FromFloat(float value, Float8E4M3* out) { *out = ToFloat8E4M3(value); }

}  // namespace longspan

#endif  // LONGSPAN_KERNELS_BASE_DTYPE_H_
