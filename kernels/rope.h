#ifndef LONGSPAN_KERNELS_ROPE_H_
#define LONGSPAN_KERNELS_ROPE_H_

#include <cstdint>
#include <vector>

namespace longspan {

// Rotary position embedding (RoFormer, arXiv 2104.09864). Angles are products in double precision:
// a float's 24 bits lose the phase of the fast dimensions beyond some 100k tokens. Cosines and
// sines of recent positions are kept, so memory does not grow with the context.
class Rope {
 public:
  // inverse_frequencies: [head_dim / 2], radians per token.
  explicit Rope(std::vector<double> inverse_frequencies);

  // out = x rotated to `position`; heads of head_dim floats each, dimension i paired with
  // i + head_dim / 2 (the Hugging Face convention). out may be x.
  void Rotate(const float* x, int64_t heads, int64_t position, float* out);

 private:
  // Direct-mapped: a chunk and its local tokens fit, and stay for all layers.
  static constexpr int64_t kSlots = 16384;

  int64_t half_;  // head_dim / 2
  std::vector<double> inverse_frequencies_;
  std::vector<int64_t> position_;  // [kSlots] whose angles the slot holds, or -1
  std::vector<float> cos_, sin_;   // [kSlots, half]
};

}  // namespace longspan

#endif  // LONGSPAN_KERNELS_ROPE_H_
