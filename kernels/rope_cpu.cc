#include <cmath>
#include <utility>

#include "kernels/rope.h"

namespace longspan {

Rope::Rope(std::vector<double> inverse_frequencies)
    : half_(static_cast<int64_t>(inverse_frequencies.size())),
      inverse_frequencies_(std::move(inverse_frequencies)),
      position_(kSlots, -1),
      cos_(kSlots * half_),
      sin_(kSlots * half_) {}

void Rope::Rotate(const float* x, int64_t heads, int64_t position, float* out) {
  const int64_t slot = position % kSlots;
  float* cos = cos_.data() + slot * half_;
  float* sin = sin_.data() + slot * half_;
  if (position_[slot] != position) {
    for (int64_t i = 0; i < half_; ++i) {
      const double angle = static_cast<double>(position) * inverse_frequencies_[i];
      cos[i] = static_cast<float>(std::cos(angle));
      sin[i] = static_cast<float>(std::sin(angle));
    }
    position_[slot] = position;
  }
  for (int64_t h = 0; h < heads; ++h) {
    const float* in = x + h * 2 * half_;
    float* to = out + h * 2 * half_;
    for (int64_t i = 0; i < half_; ++i) {
      const float a = in[i];
      const float b = in[i + half_];
      to[i] = a * cos[i] - b * sin[i];
      to[i + half_] = b * cos[i] + a * sin[i];
    }
  }
}

}  // namespace longspan
