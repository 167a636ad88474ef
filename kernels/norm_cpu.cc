#include <cmath>

#include "kernels/base/simd.h"
#include "kernels/norm.h"

namespace longspan {

void RmsNorm(const float* x, const float* weight, int64_t rows, int64_t dim, float epsilon,
             float* out) {
  for (int64_t r = 0; r < rows; ++r) {
    const float* in = x + r * dim;
    simd::Float sums = {};
    int64_t i = 0;
    for (; i + simd::kWidth <= dim; i += simd::kWidth) {
      const simd::Float v = simd::Load(in + i);
      sums = simd::MultiplyAdd(v, v, sums);
    }
    float sum = 0;
    for (; i < dim; ++i) sum += in[i] * in[i];
    for (int lane = 0; lane < simd::kWidth; ++lane) sum += sums[lane];
    const float scale = 1.0f / std::sqrt(sum / static_cast<float>(dim) + epsilon);
    for (int64_t j = 0; j < dim; ++j) out[r * dim + j] = in[j] * scale * weight[j];
  }
}

void SwiGlu(float* gate, const float* up, int64_t count) {
  // silu(x) = x / (1 + e^-x); below -88 the exponential has no float, and the result is 0 but for
  // some 1e-36.
  const auto silu = [](simd::Float x) {
    const simd::Float limit = simd::Broadcast(-88.0f);
    const simd::Float y = x < limit ? limit : x;
    return y / (simd::Broadcast(1.0f) + simd::Exp(-y));
  };
  int64_t i = 0;
  for (; i + simd::kWidth <= count; i += simd::kWidth) {
    simd::Store(gate + i, silu(simd::Load(gate + i)) * simd::Load(up + i));
  }
  for (; i < count; ++i) gate[i] = silu(simd::Broadcast(gate[i]))[0] * up[i];
}

}  // namespace longspan
