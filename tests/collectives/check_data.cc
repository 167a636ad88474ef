#include "tests/collectives/check_data.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <random>

namespace longspan {
namespace {

constexpr float kInf = std::numeric_limits<float>::infinity();
constexpr float kNan = std::numeric_limits<float>::quiet_NaN();

float LargerOf(float a, float b) {
  if (std::isnan(b)) return a;
  if (a == b) return std::signbit(a) ? b : a;
  return a > b ? a : b;
}

}  // namespace

std::vector<char> MakeBytes(uint64_t key, int64_t bytes) {
  std::vector<char> data(bytes);
  std::mt19937_64 random(key);
  for (int64_t at = 0; at < bytes; at += 8) {
    const uint64_t word = random();
    std::memcpy(data.data() + at, &word, std::min<int64_t>(8, bytes - at));
  }
  return data;
}

std::vector<char> GatheredBytes(uint64_t first_key, int64_t bytes, int size) {
  std::vector<char> all;
  for (int r = 0; r < size; ++r) {
    const std::vector<char> part = MakeBytes(first_key + r, bytes);
    all.insert(all.end(), part.begin(), part.end());
  }
  return all;
}

std::vector<float> MakeFloats(int rank, int64_t count) {
  static constexpr float kSpecial[] = {0.0f, -0.0f, kInf, -kInf, kNan, -kNan, 1e-45f, -1e-45f};
  std::mt19937 random(rank + 77);
  std::normal_distribution<float> normal;
  std::vector<float> values(count);
  for (float& v : values) v = random() % 2 == 0 ? kSpecial[random() % 8] : normal(random);
  for (int64_t i = 0; i < std::min<int64_t>(count, 8); ++i) values[i] = kSpecial[i];
  return values;
}

std::vector<float> Maxima(int64_t count, int size) {
  std::vector<float> maxima(count, -kInf);
  for (int r = 0; r < size; ++r) {
    const std::vector<float> values = MakeFloats(r, count);
    for (int64_t i = 0; i < count; ++i) maxima[i] = LargerOf(maxima[i], values[i]);
  }
  return maxima;
}

std::vector<uint32_t> MakeIntegers(int rank, int64_t count) {
  std::mt19937 random(rank + 9);
  std::vector<uint32_t> values(count);
  for (uint32_t& v : values) v = random();
  return values;
}

std::vector<uint32_t> Sums(int64_t count, int size) {
  std::vector<uint32_t> sums(count);
  for (int r = 0; r < size; ++r) {
    const std::vector<uint32_t> values = MakeIntegers(r, count);
    for (int64_t i = 0; i < count; ++i) sums[i] += values[i];
  }
  return sums;
}

}  // namespace longspan
