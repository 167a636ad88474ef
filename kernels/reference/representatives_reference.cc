#include <algorithm>
#include <utility>
#include <vector>

#include "kernels/base/convert.h"
#include "kernels/reference/reference.h"

namespace longspan::reference {

void MeanRepresentative(const ScoreKeys& unit, int64_t dim, int64_t representatives, double* out) {
  std::vector<float> keys(unit.count * dim);
  ConvertToFloat(static_cast<const std::byte*>(unit.data), unit.dtype, unit.count * dim,
                 keys.data());
  std::vector<double> mean(dim, 0.0);
  for (int64_t i = 0; i < unit.count * dim; ++i) {
    mean[i % dim] += keys[i] / static_cast<double>(unit.count);
  }
  std::vector<std::pair<double, int64_t>> nearness;  // the farthest first
  for (int64_t m = 0; m < unit.count; ++m) {
    double distance = 0;
    for (int64_t d = 0; d < dim; ++d) {
      distance += (keys[m * dim + d] - mean[d]) * (keys[m * dim + d] - mean[d]);
    }
    nearness.emplace_back(-distance, m);
  }
  std::sort(nearness.begin(), nearness.end());
  nearness.resize(std::min(unit.count, representatives));
  std::fill_n(out, dim, 0.0);
  for (const auto& [distance, m] : nearness) {
    for (int64_t d = 0; d < dim; ++d) {
      out[d] += keys[m * dim + d] / static_cast<double>(nearness.size());
    }
  }
}

}  // namespace longspan::reference
