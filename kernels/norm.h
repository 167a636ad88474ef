#ifndef LONGSPAN_KERNELS_NORM_H_
#define LONGSPAN_KERNELS_NORM_H_

#include <cstdint>

namespace longspan {

// RMSNorm (arXiv 1910.07467): out[r] = x[r] / sqrt(mean(x[r]^2) + epsilon) * weight.
// x, out: [rows, dim]; weight: [dim]; all float32. out may be x.
void RmsNorm(const float* x, const float* weight, int64_t rows, int64_t dim, float epsilon,
             float* out);

// SwiGLU (arXiv 2002.05202): gate = silu(gate) * up, elementwise.
void SwiGlu(float* gate, const float* up, int64_t count);

}  // namespace longspan

#endif  // LONGSPAN_KERNELS_NORM_H_
