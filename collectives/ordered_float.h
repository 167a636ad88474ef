#ifndef LONGSPAN_COLLECTIVES_ORDERED_FLOAT_H_
#define LONGSPAN_COLLECTIVES_ORDERED_FLOAT_H_

#include <bit>
#include <cmath>
#include <cstdint>
#include <limits>

// Integers in the order of the floats they stand for, so that an integer maximum is exact and the
// same in any order of ranks; MPI leaves the maximum with a NaN or with two zeros open.
namespace longspan {

// -inf < ... < -0 < +0 < ... < +inf; a NaN becomes -inf.
inline int32_t OrderedFromFloat(float value) {
  if (std::isnan(value)) value = -std::numeric_limits<float>::infinity();
  const int32_t bits = std::bit_cast<int32_t>(value);
  return bits ^ ((bits >> 31) & 0x7fffffff);
}

inline float FloatFromOrdered(int32_t ordered) {
  return std::bit_cast<float>(ordered ^ ((ordered >> 31) & 0x7fffffff));
}

}  // namespace longspan

#endif  // LONGSPAN_COLLECTIVES_ORDERED_FLOAT_H_
