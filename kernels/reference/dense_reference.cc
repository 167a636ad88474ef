#include <cmath>

#include "kernels/base/convert.h"
#include "kernels/reference/reference.h"

namespace longspan::reference {

void RmsNorm(const float* x, const float* weight, int64_t rows, int64_t dim, float epsilon,
             double* out) {
  for (int64_t r = 0; r < rows; ++r) {
    double squares = 0;
    for (int64_t i = 0; i < dim; ++i) squares += double{x[r * dim + i]} * x[r * dim + i];
    const double root = std::sqrt(squares / static_cast<double>(dim) + epsilon);
    for (int64_t i = 0; i < dim; ++i) out[r * dim + i] = x[r * dim + i] / root * weight[i];
  }
}

void SwiGlu(const float* gate, const float* up, int64_t count, double* out) {
  for (int64_t i = 0; i < count; ++i) {
    out[i] = double{gate[i]} / (1 + std::exp(-double{gate[i]})) * up[i];
  }
}

void Rotate(absl::Span<const double> inverse_frequencies, const float* x, int64_t heads,
            int64_t position, double* out) {
  const auto half = static_cast<int64_t>(inverse_frequencies.size());
  for (int64_t h = 0; h < heads; ++h) {
    for (int64_t i = 0; i < half; ++i) {
      const double angle = static_cast<double>(position) * inverse_frequencies[i];
      const double a = x[h * 2 * half + i];
      const double b = x[h * 2 * half + half + i];
      out[h * 2 * half + i] = a * std::cos(angle) - b * std::sin(angle);
      out[h * 2 * half + half + i] = b * std::cos(angle) + a * std::sin(angle);
    }
  }
}

void Linear(const LinearArgs& args, double* y) {
  std::vector<float> weight(args.in);
  for (int64_t o = 0; o < args.out; ++o) {
    const auto* source = static_cast<const std::byte*>(args.weight);
    ConvertToFloat(source + o * args.in * SizeOf(args.dtype), args.dtype, args.in, weight.data());
    for (int64_t r = 0; r < args.rows; ++r) {
      double sum = args.accumulate ? args.y[r * args.out + o] : 0.0;
      for (int64_t i = 0; i < args.in; ++i) sum += double{args.x[r * args.in + i]} * weight[i];
      y[r * args.out + o] = sum;
    }
  }
}

}  // namespace longspan::reference
