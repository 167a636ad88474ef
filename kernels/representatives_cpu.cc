#include <algorithm>
#include <cmath>
#include <cstddef>
#include <numeric>
#include <vector>

#include "kernels/base/convert.h"
#include "kernels/base/simd.h"
#include "kernels/representatives.h"

namespace longspan {
namespace {

// The mean of some rows, in order.
void Mean(const std::vector<float>& rows, const std::vector<int64_t>& of, int64_t dim, float* out) {
  std::fill_n(out, dim, 0.0f);
  for (const int64_t r : of) {
    for (int64_t d = 0; d < dim; ++d) out[d] += rows[r * dim + d];
  }
  const float share = 1 / static_cast<float>(of.size());
  for (int64_t d = 0; d < dim; ++d) out[d] *= share;
}

float SquaredDistance(const float* a, const float* b, int64_t dim) {
  simd::Float sum = {};
  int64_t d = 0;
  for (; d + simd::kWidth <= dim; d += simd::kWidth) {
    const simd::Float difference = simd::Load(a + d) - simd::Load(b + d);
    sum = simd::MultiplyAdd(difference, difference, sum);
  }
  float total = 0;
  for (; d < dim; ++d) total = std::fma(a[d] - b[d], a[d] - b[d], total);
  for (int i = 0; i < simd::kWidth; ++i) total += sum[i];
  return total;
}

}  // namespace

void MeanRepresentative(const ScoreKeys& unit, int64_t dim, int64_t representatives, float* out) {
  std::vector<float> rows(unit.count * dim);
  ConvertToFloat(static_cast<const std::byte*>(unit.data), unit.dtype, unit.count * dim,
                 rows.data());
  std::vector<int64_t> order(unit.count);
  std::iota(order.begin(), order.end(), 0);
  if (unit.count > representatives) {
    Mean(rows, order, dim, out);
    std::vector<float> distances;
    for (const int64_t r : order) {
      const float distance = SquaredDistance(rows.data() + r * dim, out, dim);
      distances.push_back(std::isnan(distance) ? -1 : distance);
    }
    std::stable_sort(order.begin(), order.end(),
                     [&](int64_t a, int64_t b) { return distances[a] > distances[b]; });
    order.resize(representatives);
    std::sort(order.begin(), order.end());
  }
  Mean(rows, order, dim, out);
}

}  // namespace longspan
