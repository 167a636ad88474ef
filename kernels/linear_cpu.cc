#include <cblas.h>

#include <algorithm>
#include <cstring>
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

simd::Float LoadAs(const float* p) { return simd::Load(p); }
simd::Float LoadAs(const BFloat16* p) {
  typedef uint16_t Half __attribute__((vector_size(simd::kWidth * sizeof(uint16_t))));
  typedef uint32_t Word __attribute__((vector_size(simd::kWidth * sizeof(uint32_t))));
  Half half;
  std::memcpy(&half, p, sizeof(half));
  const Word word = __builtin_convertvector(half, Word) << 16;
  simd::Float v;
  std::memcpy(&v, &word, sizeof(v));
  return v;
}
template <typename T>
simd::Float LoadAs(const T* p) {
  float values[simd::kWidth];
  for (int i = 0; i < simd::kWidth; ++i) values[i] = ToFloat(p[i]);
  return simd::Load(values);
}

constexpr int64_t kStep = kUnroll * simd::kWidth;

template <typename T>
void AddProducts(const T* weight, const float* x, simd::Float* sum) {
  for (int u = 0; u < kUnroll; ++u) {
    sum[u] = simd::MultiplyAdd(LoadAs(weight + u * simd::kWidth), simd::Load(x + u * simd::kWidth),
                               sum[u]);
  }
}

// weight: [in]; x: [in] and zeros up to a whole step.
template <typename T>
float Dot(const T* weight, const float* x, int64_t in) {
  simd::Float sum[kUnroll] = {};
  int64_t i = 0;
  for (; i + kStep <= in; i += kStep) AddProducts(weight + i, x + i, sum);
  if (i < in) {
    T rest[kStep] = {};
    std::copy_n(weight + i, in - i, rest);
    AddProducts(rest, x + i, sum);
  }
  const simd::Float all = (sum[0] + sum[1]) + (sum[2] + sum[3]);
  float total = 0;
  for (int lane = 0; lane < simd::kWidth; ++lane) total += all[lane];
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

std::string KernelSet() {
  const std::string config = openblas_get_config();  // "OpenBLAS 0.3.21 NO_LAPACKE ..."
  return config.substr(0, config.find(' ', config.find(' ') + 1)) + " for " +
         openblas_get_corename() + ", vectors of " + std::to_string(simd::kWidth) + " floats" +
         (simd::kFused ? "" : ", not fused");
}

std::string MissedCoreType() {
#ifdef __x86_64__
  if (std::string(openblas_get_corename()) != "Prescott") return "";
  if (__builtin_cpu_supports("avx512f")) return "SkylakeX";
  if (__builtin_cpu_supports("avx2")) return "Haswell";
#endif
  return "";
}

void LinearFewRows(const LinearArgs& args) {
  const int64_t padded = (args.in + kStep - 1) / kStep * kStep;
  std::vector<float> x(args.rows * padded);
  for (int64_t r = 0; r < args.rows; ++r) {
    std::copy_n(args.x + r * args.in, args.in, x.data() + r * padded);
  }
  DispatchDType(args.dtype, [&]<typename T>(T) {
    for (int64_t o = 0; o < args.out; ++o) {
      const T* weight = static_cast<const T*>(args.weight) + o * args.in;
      for (int64_t r = 0; r < args.rows; ++r) {
        const float value = Dot(weight, x.data() + r * padded, args.in);
        float& y = args.y[r * args.out + o];
        y = args.accumulate ? y + value : value;
      }
    }
  });
}

void AddBias(const float* bias, int64_t rows, int64_t out, float* y) {
  for (int64_t r = 0; r < rows; ++r) {
    for (int64_t o = 0; o < out; ++o) y[r * out + o] += bias[o];
  }
}

}  // namespace longspan
