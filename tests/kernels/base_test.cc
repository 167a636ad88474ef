#include <bit>
#include <cmath>
#include <cstdint>
#include <limits>

#include "gtest/gtest.h"
#include "kernels/base/convert.h"
#include "kernels/base/simd.h"
#include "tests/kernels/kernel_testing.h"

namespace longspan {
namespace {

// The value of a binary floating-point number by its definition.
double ValueOf(uint32_t bits, int exponent_bits, int mantissa_bits) {
  const uint32_t mantissa = bits & ((1u << mantissa_bits) - 1);
  const int exponent = static_cast<int>(bits >> mantissa_bits) & ((1 << exponent_bits) - 1);
  const double sign = (bits >> (mantissa_bits + exponent_bits)) != 0 ? -1 : 1;
  if (exponent == (1 << exponent_bits) - 1) return mantissa != 0 ? kNan : sign * kInf;
  const int bias = (1 << (exponent_bits - 1)) - 1;
  if (exponent == 0) return sign * std::ldexp(mantissa, 1 - bias - mantissa_bits);
  return sign *
         std::ldexp(mantissa + std::ldexp(1, mantissa_bits), exponent - bias - mantissa_bits);
}

TEST(ConvertTest, EveryHalfPrecisionValueIsExact) {
  for (uint32_t bits = 0; bits < 65536; ++bits) {
    const Float16 half = {static_cast<uint16_t>(bits)};
    const BFloat16 brain = {static_cast<uint16_t>(bits)};
    for (const auto& [value, expected] : {std::pair(ToFloat(half), ValueOf(bits, 5, 10)),
                                          std::pair(ToFloat(brain), ValueOf(bits, 8, 7))}) {
      ASSERT_EQ(KindOf(value), KindOf(expected)) << bits;
      if (std::isnan(expected)) continue;
      ASSERT_EQ(value, expected) << bits;
      ASSERT_EQ(std::signbit(value), (bits & 0x8000) != 0) << bits;
    }
  }
}

TEST(ConvertTest, ArraysConvertAsTheirElementsDo) {
  std::vector<uint16_t> bits(65536);
  for (size_t i = 0; i < bits.size(); ++i) bits[i] = static_cast<uint16_t>(i);
  std::vector<float> from_half(bits.size()), from_brain(bits.size());
  ConvertToFloat(bits.data(), DType::kFloat16, 65536, from_half.data());
  ConvertToFloat(bits.data(), DType::kBFloat16, 65536, from_brain.data());
  std::vector<uint16_t> back(bits.size());
  ConvertFromFloat(from_brain.data(), 65536, DType::kBFloat16, back.data());
  for (size_t i = 0; i < bits.size(); ++i) {
    const float half = ToFloat(Float16{bits[i]});
    ASSERT_TRUE(from_half[i] == half || (std::isnan(half) && std::isnan(from_half[i]))) << i;
    const float brain = ToFloat(BFloat16{bits[i]});
    ASSERT_TRUE(from_brain[i] == brain || (std::isnan(brain) && std::isnan(from_brain[i]))) << i;
    if (std::isnan(brain)) {
      ASSERT_TRUE(std::isnan(ToFloat(BFloat16{back[i]}))) << i;
    } else {
      ASSERT_EQ(back[i], bits[i]);
    }
  }
}

// All floats between two neighbouring bfloat16 go to the nearer one; the middle to the even one.
TEST(ConvertTest, BFloat16RoundsToNearestEven) {
  for (uint32_t high = 0; high < 65536; ++high) {
    const uint32_t below = high << 16;
    if ((high & 0x7f80) == 0x7f80) continue;  // infinities and NaN
    const auto up = static_cast<uint16_t>(high + 1);
    const auto same = static_cast<uint16_t>(high);
    EXPECT_EQ(ToBFloat16(std::bit_cast<float>(below)).bits, same);
    EXPECT_EQ(ToBFloat16(std::bit_cast<float>(below + 1)).bits, same);
    EXPECT_EQ(ToBFloat16(std::bit_cast<float>(below + 0x7fff)).bits, same);
    EXPECT_EQ(ToBFloat16(std::bit_cast<float>(below + 0x8000)).bits, high % 2 == 0 ? same : up);
    EXPECT_EQ(ToBFloat16(std::bit_cast<float>(below + 0x8001)).bits, up);
    EXPECT_EQ(ToBFloat16(std::bit_cast<float>(below + 0xffff)).bits, up);
  }
}

TEST(ConvertTest, BFloat16KeepsNanWhateverItsBits) {
  for (const uint32_t bits : {0x7f800001u, 0x7fc00000u, 0x7fffffffu, 0xff800001u, 0xffffffffu}) {
    EXPECT_TRUE(std::isnan(ToFloat(ToBFloat16(std::bit_cast<float>(bits))))) << bits;
  }
}

// The value of an e4m3fn number by its definition: only all ones are NaN.
double Fp8ValueOf(uint32_t bits) {
  if ((bits & 0x7f) == 0x7f) return kNan;
  const int exponent = static_cast<int>(bits >> 3 & 15);
  const double sign = (bits & 0x80) != 0 ? -1 : 1;
  const uint32_t mantissa = bits & 7;
  return exponent == 0 ? sign * std::ldexp(mantissa, -9)
                       : sign * std::ldexp(8 + mantissa, exponent - 10);
}

// The nearest of all finite numbers; of two equally near ones the even one.
uint8_t NearestFp8(float value) {
  if (std::isnan(value)) return 0x7f;
  uint32_t best = 0;
  double best_distance = kInf;
  const double magnitude = std::min<double>(std::abs(value), 448);
  for (uint32_t bits = 0; bits < 0x7f; ++bits) {
    const double distance = std::abs(Fp8ValueOf(bits) - magnitude);
    if (distance < best_distance || (distance == best_distance && bits % 2 == 0)) {
      best = bits;
      best_distance = distance;
    }
  }
  return static_cast<uint8_t>(best | (std::signbit(value) ? 0x80 : 0));
}

TEST(ConvertTest, EveryFp8ValueIsExactAndComesBack) {
  std::vector<uint8_t> bits(256), back(256);
  for (size_t i = 0; i < bits.size(); ++i) bits[i] = static_cast<uint8_t>(i);
  std::vector<float> values(256);
  ConvertToFloat(bits.data(), DType::kFloat8E4M3, 256, values.data());
  ConvertFromFloat(values.data(), 256, DType::kFloat8E4M3, back.data());
  for (uint32_t i = 0; i < 256; ++i) {
    const double expected = Fp8ValueOf(i);
    ASSERT_EQ(KindOf(values[i]), KindOf(expected)) << i;
    ASSERT_EQ(std::signbit(values[i]), i >= 0x80) << i;
    if (std::isnan(expected)) {
      EXPECT_EQ(back[i], 0x7f) << i;
      continue;
    }
    EXPECT_EQ(values[i], expected) << i;
    EXPECT_EQ(back[i], i);
    // A cache of this type is read as one of bfloat16 would be.
    EXPECT_EQ(ToFloat(ToBFloat16(values[i])), values[i]) << i;
  }
  EXPECT_EQ(SizeOf(DType::kFloat8E4M3), 1);
  EXPECT_EQ(DTypeName(DType::kFloat8E4M3), "fp8_e4m3");
}

TEST(ConvertTest, Fp8RoundsToNearestEvenAndSaturates) {
  const auto check = [](float value) {
    ASSERT_EQ(ToFloat8E4M3(value).bits, NearestFp8(value)) << value;
    ASSERT_EQ(ToFloat8E4M3(-value).bits, NearestFp8(-value)) << -value;
  };
  for (uint32_t bits = 0; bits < 0x7e; ++bits) {
    const double low = Fp8ValueOf(bits), high = Fp8ValueOf(bits + 1);
    const auto middle = static_cast<float>((low + high) / 2);
    for (const float value :
         {static_cast<float>(low), middle, std::nextafter(middle, kInf),
          std::nextafter(middle, -kInf), static_cast<float>(low + (high - low) / 4)}) {
      check(value);
    }
    EXPECT_EQ(ToFloat8E4M3(middle).bits, bits % 2 == 0 ? bits : bits + 1);
  }
  for (const float value : {448.0f, 449.0f, 464.0f, 465.0f, 480.0f, 512.0f, 1e10f,
                            std::numeric_limits<float>::max(), kInf}) {
    check(value);
    EXPECT_EQ(ToFloat8E4M3(value).bits, 0x7e) << value;
    EXPECT_EQ(ToFloat8E4M3(-value).bits, 0xfe) << value;
  }
  for (const float value : {1e-40f, 0x1p-126f, 0x1p-30f, 0x1p-11f, 0x1p-10f}) check(value);
  for (const uint32_t nan : {0x7f800001u, 0x7fc00000u, 0x7fffffffu, 0xff800001u, 0xffffffffu}) {
    EXPECT_EQ(ToFloat8E4M3(std::bit_cast<float>(nan)).bits, 0x7f) << nan;
  }
  Random random(3);
  for (int i = 0; i < 100'000; ++i) {
    check(std::ldexp(random.Real(), static_cast<int>(random.Integer(-14, 12))));
    if (HasFatalFailure()) return;
  }
}

float ExpOf(float x) { return simd::Exp(simd::Broadcast(x))[simd::kWidth - 1]; }

// Distance in units of the last place of the exact value as a float.
double UlpError(float actual, double exact) {
  const auto rounded = static_cast<float>(exact);
  return std::abs(actual - exact) / (std::nextafter(rounded, kInf) - rounded);
}

TEST(SimdTest, ExpIsWithinTwoUnitsInTheLastPlace) {
  double worst = 0;
  float worst_x = 0;
  const auto check = [&](float x) {
    const double error = UlpError(ExpOf(x), std::exp(double{x}));
    if (error > worst) {
      worst = error;
      worst_x = x;
    }
  };
  for (float x = -87.29f; x <= 88.0f; x += 1.7e-4f) check(x);
  // Where the reduction changes to the next power of two, and all magnitudes near 0.
  for (int n = -125; n < 127; ++n) {
    const auto middle = static_cast<float>((n + 0.5) * std::log(2.0));
    for (float x : {middle, std::nextafter(middle, kInf), std::nextafter(middle, -kInf)}) check(x);
  }
  for (float x = 1; x > 1e-40f; x *= 0.7f) {
    check(x);
    check(-x);
  }
  RecordProperty("worst_ulp", std::to_string(worst));
  EXPECT_LE(worst, 2.0) << "at " << worst_x;
}

TEST(SimdTest, ExpAtTheEdges) {
  EXPECT_EQ(ExpOf(0.0f), 1.0f);  // an online softmax rescales by exactly 1 when nothing changed
  EXPECT_EQ(ExpOf(-0.0f), 1.0f);
  for (const float x : {-87.4f, -100.0f, -1e10f, -std::numeric_limits<float>::max(), -kInf}) {
    EXPECT_EQ(ExpOf(x), 0.0f) << x;
  }
  EXPECT_TRUE(std::isnan(ExpOf(kNan)));
}

TEST(SimdTest, LanesDoNotMix) {
  Random random(1);
  for (int trial = 0; trial < 1000; ++trial) {
    const std::vector<float> x = random.Reals(simd::kWidth, -90, 88);
    const simd::Float all = simd::Exp(simd::Load(x.data()));
    for (int i = 0; i < simd::kWidth; ++i) ASSERT_EQ(all[i], ExpOf(x[i])) << x[i];
  }
}

TEST(SimdTest, NanNeverWinsAMaximum) {
  const auto max = [](float candidate, float current) {
    return simd::Max(simd::Broadcast(candidate), simd::Broadcast(current))[0];
  };
  EXPECT_EQ(max(kNan, 3), 3);
  EXPECT_EQ(max(kNan, -kInf), -kInf);
  EXPECT_EQ(max(4, 3), 4);
  EXPECT_EQ(max(kInf, 3), kInf);
}

}  // namespace
}  // namespace longspan
