#ifndef LONGSPAN_TESTS_KERNELS_KERNEL_TESTING_H_
#define LONGSPAN_TESTS_KERNELS_KERNEL_TESTING_H_

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>
#include <initializer_list>
#include <limits>
#include <random>
#include <vector>

#include "absl/types/span.h"
#include "gtest/gtest.h"
#include "kernels/base/convert.h"
#include "kernels/score.h"

namespace longspan {

inline constexpr float kInf = std::numeric_limits<float>::infinity();
inline constexpr float kNan = std::numeric_limits<float>::quiet_NaN();

class Random {
 public:
  explicit Random(uint64_t seed) : engine_(seed) {}

  // Uniform in [low, high], both included.
  int64_t Integer(int64_t low, int64_t high) {
    return std::uniform_int_distribution<int64_t>(low, high)(engine_);
  }
  template <typename T>
  T OneOf(std::initializer_list<T> values) {
    return values.begin()[Integer(0, static_cast<int64_t>(values.size()) - 1)];
  }
  float Real(float low = -1, float high = 1) {
    return std::uniform_real_distribution<float>(low, high)(engine_);
  }
  std::vector<float> Reals(int64_t count, float low = -1, float high = 1) {
    std::vector<float> values(count);
    for (float& value : values) value = Real(low, high);
    return values;
  }
  std::mt19937_64& engine() { return engine_; }

 private:
  std::mt19937_64 engine_;
};

// Numbers as they are stored in `dtype`.
class Stored {
 public:
  Stored(const std::vector<float>& values, DType dtype)
      : dtype_(dtype), bytes_(values.size() * SizeOf(dtype)) {
    ConvertFromFloat(values.data(), static_cast<int64_t>(values.size()), dtype, bytes_.data());
  }
  const void* data(int64_t first = 0) const { return bytes_.data() + first * SizeOf(dtype_); }
  DType dtype() const { return dtype_; }
  // Rows [first, first + count) of dim numbers each.
  ScoreKeys Keys(int64_t first, int64_t count, int64_t dim) const {
    return {data(first * dim), dtype_, count};
  }

 private:
  DType dtype_;
  std::vector<std::byte> bytes_;
};

enum class Kind { kFinite, kNotANumber, kPlusInfinity, kMinusInfinity };

inline Kind KindOf(double value) {
  if (std::isnan(value)) return Kind::kNotANumber;
  if (std::isinf(value)) return value > 0 ? Kind::kPlusInfinity : Kind::kMinusInfinity;
  return Kind::kFinite;
}

// The same places are NaN, +inf and -inf; the others differ by at most `tolerance` times the larger
// of 1 and the expected magnitude.
inline void ExpectClose(absl::Span<const float> actual, absl::Span<const double> expected,
                        double tolerance) {
  ASSERT_EQ(actual.size(), expected.size());
  for (size_t i = 0; i < actual.size(); ++i) {
    ASSERT_EQ(KindOf(actual[i]), KindOf(expected[i]))
        << "at " << i << ": " << actual[i] << " for " << expected[i];
  }
  for (size_t i = 0; i < actual.size(); ++i) {
    if (KindOf(actual[i]) != Kind::kFinite) continue;
    const double limit = tolerance * std::max(1.0, std::abs(expected[i]));
    ASSERT_LE(std::abs(actual[i] - expected[i]), limit)
        << "at " << i << " of " << actual.size() << ": " << actual[i] << " for " << expected[i];
  }
}

// Equal to the last bit, but that any NaN is as good as any other.
inline void ExpectSameBits(absl::Span<const float> actual, absl::Span<const float> expected) {
  ASSERT_EQ(actual.size(), expected.size());
  for (size_t i = 0; i < actual.size(); ++i) {
    if (std::isnan(actual[i]) && std::isnan(expected[i])) continue;
    ASSERT_EQ(std::bit_cast<uint32_t>(actual[i]), std::bit_cast<uint32_t>(expected[i]))
        << "at " << i << " of " << actual.size() << ": " << actual[i] << " for " << expected[i];
  }
}

}  // namespace longspan

#endif  // LONGSPAN_TESTS_KERNELS_KERNEL_TESTING_H_
