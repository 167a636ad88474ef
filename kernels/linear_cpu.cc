#include <cblas.h>

#include <algorithm>
#include <vector>

#include "kernels/base/check.h"
#include "kernels/base/convert.h"
#include "kernels/base/simd.h"
#include "kernels/linear.h"

namespace longspan {
namespace {

// Weights are converted to float a strip of outputs at a time, so that a large matrix never exists
// twice. The strip is fixed, and with it the shape of every product.
constexpr int64_t kStripElements = 1 << 20;

// Terms of one dot product are summed in `kUnroll` vectors to hide the latency of the adds.
constexpr int kUnroll = 4;

// A row of weights as floats, padded with zeros to whole unrolled vectors.
float Dot(const float* a, const float* b, int64_t padded) {
  simd::Float sum[kUnroll] = {};
  for (int64_t i = 0; i < padded; i += kUnroll * simd::kWidth) {
    for (int u = 0; u < kUnroll; ++u) {
      sum[u] += simd::Load(a + i + u * simd::kWidth) * simd::Load(b + i + u * simd::kWidth);
    }
  }
  const simd::Float all = (sum[0] + sum[1]) + (sum[2] + sum[3]);
  float total = 0;
  for (int i = 0; i < simd::kWidth; ++i) total += all[i];
  return total;
}

}  // namespace

void Linear(const LinearArgs& args, int64_t panel_rows) {
  if (args.rows == 0) return;
  const int64_t panel = panel_rows > 0 ? panel_rows : args.rows;
  LONGSPAN_CHECK(args.rows % panel == 0);
  const bool convert = args.dtype != DType::kFloat32;
  const int64_t strip = convert ? std::max<int64_t>(1, kStripElements / args.in) : args.out;
  std::vector<float> converted(convert ? std::min(strip, args.out) * args.in : 0);
  for (int64_t first = 0; first < args.out; first += strip) {
    const int64_t n = std::min(strip, args.out - first);
    const auto* source =
        static_cast<const std::byte*>(args.weight) + first * args.in * SizeOf(args.dtype);
    if (convert) ConvertToFloat(source, args.dtype, n * args.in, converted.data());
    const float* weight = convert ? converted.data() : reinterpret_cast<const float*>(source);
    for (int64_t row = 0; row < args.rows; row += panel) {
      cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasTrans, static_cast<int>(panel),
                  static_cast<int>(n), static_cast<int>(args.in), 1.0f, args.x + row * args.in,
                  static_cast<int>(args.in), weight, static_cast<int>(args.in),
                  args.accumulate ? 1.0f : 0.0f, args.y + row * args.out + first,
                  static_cast<int>(args.out));
    }
  }
}

void LinearFewRows(const LinearArgs& args) {
  const int64_t step = kUnroll * simd::kWidth;
  const int64_t padded = (args.in + step - 1) / step * step;
  std::vector<float> x(args.rows * padded);
  for (int64_t r = 0; r < args.rows; ++r) {
    std::copy_n(args.x + r * args.in, args.in, x.data() + r * padded);
  }
  std::vector<float> row(padded);
  for (int64_t o = 0; o < args.out; ++o) {
    const auto* source =
        static_cast<const std::byte*>(args.weight) + o * args.in * SizeOf(args.dtype);
    ConvertToFloat(source, args.dtype, args.in, row.data());
    for (int64_t r = 0; r < args.rows; ++r) {
      const float value = Dot(row.data(), x.data() + r * padded, padded);
      float& y = args.y[r * args.out + o];
      y = args.accumulate ? y + value : value;
    }
  }
}

}  // namespace longspan
