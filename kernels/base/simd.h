#ifndef LONGSPAN_KERNELS_BASE_SIMD_H_
#define LONGSPAN_KERNELS_BASE_SIMD_H_

#include <cstdint>
#include <cstring>

#if defined(__FMA__) || defined(__AVX512F__)
#include <immintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif

namespace longspan::simd {

#if defined(__AVX512F__) || defined(__FMA__) || defined(__aarch64__)
inline constexpr bool kFused = true;
#else
inline constexpr bool kFused = false;
#endif

// One native vector of floats. Scoring and attention of blocks put independent results (queries) in
// its lanes: a result is then the same chain of operations wherever it lies in a tile. Which of
// them are fused is said here and not left to the compiler (kernels are compiled with
// -ffp-contract=off): it would choose by the code around, and by what it is tuned for. Where a
// kernel sums across lanes (norms, dot products of decode), the order of the sum depends on the
// length of the row alone. Either way no result depends on what else is computed beside it.
#if defined(__AVX512F__)
inline constexpr int kWidth = 16;
#elif defined(__AVX__)
inline constexpr int kWidth = 8;
#else
inline constexpr int kWidth = 4;
#endif

typedef float Float __attribute__((vector_size(kWidth * sizeof(float))));
typedef int32_t Int __attribute__((vector_size(kWidth * sizeof(int32_t))));

inline Float Load(const float* p) {
  Float v;
  std::memcpy(&v, p, sizeof(v));
  return v;
}
inline void Store(float* p, Float v) { std::memcpy(p, &v, sizeof(v)); }
inline Float Broadcast(float value) { return value - Float{}; }

// NaN in `candidate` never wins.
inline Float Max(Float candidate, Float current) {
  return candidate > current ? candidate : current;
}

// a * b + c, rounded once if kFused.
inline Float MultiplyAdd(Float a, Float b, Float c) {
#if defined(__AVX512F__)
  return (Float)_mm512_fmadd_ps((__m512)a, (__m512)b, (__m512)c);
#elif defined(__FMA__)
  return (Float)_mm256_fmadd_ps((__m256)a, (__m256)b, (__m256)c);
#elif defined(__aarch64__)
  return (Float)vfmaq_f32((float32x4_t)c, (float32x4_t)a, (float32x4_t)b);
#else
  return a * b + c;
#endif
}

// e^x to about one unit in the last place; 0 below -87.3, NaN for NaN, x must not exceed 88.
inline Float Exp(Float x) {
  const Float kLog2e = Broadcast(1.44269504088896341f);
  const Float kRound = Broadcast(12582912.0f);  // 1.5 * 2^23: adding it rounds to an integer
  const Float clamped = x < Broadcast(-87.3f) ? Broadcast(-87.3f) : x;
  const Float shifted = MultiplyAdd(clamped, kLog2e, kRound);
  const Float n = shifted - kRound;
  // ln 2 in two parts keeps the reduced argument exact (Cody and Waite).
  Float r = MultiplyAdd(n, Broadcast(-0.693359375f), clamped);
  r = MultiplyAdd(n, Broadcast(2.12194440e-4f), r);
  Float p = Broadcast(1.9875691500e-4f);
  p = MultiplyAdd(p, r, Broadcast(1.3981999507e-3f));
  p = MultiplyAdd(p, r, Broadcast(8.3334519073e-3f));
  p = MultiplyAdd(p, r, Broadcast(4.1665795894e-2f));
  p = MultiplyAdd(p, r, Broadcast(1.6666665459e-1f));
  p = MultiplyAdd(p, r, Broadcast(5.0000001201e-1f));
  p = MultiplyAdd(p * r, r, r) + Broadcast(1.0f);
  Int exponent;
  std::memcpy(&exponent, &shifted, sizeof(exponent));
  exponent = (exponent - 0x4b400000 + 127) << 23;
  Float scale;
  std::memcpy(&scale, &exponent, sizeof(scale));
  const Float result = p * scale;
  return x < Broadcast(-87.3f) ? Float{} : result;
}

}  // namespace longspan::simd

#endif  // LONGSPAN_KERNELS_BASE_SIMD_H_
