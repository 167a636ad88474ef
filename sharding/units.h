#ifndef LONGSPAN_SHARDING_UNITS_H_
#define LONGSPAN_SHARDING_UNITS_H_

#include <cstdint>

#include "sharding/sequence_layout.h"

// Selection of whole units of consecutive positions, aligned at 0 (`esa.unit_tokens`). Unit u is
// [u * unit_tokens, (u + 1) * unit_tokens), as far as it lies in the middle that is selected from.
// Units go round the ranks as their tokens do: a stripe is a multiple of them.
namespace longspan {

// Units that have positions of `tokens`.
inline Range UnitsOf(Range tokens, int64_t unit_tokens) {
  return {tokens.begin / unit_tokens, (tokens.end + unit_tokens - 1) / unit_tokens};
}

// The positions of a unit that are in `middle`.
inline Range TokensOfUnit(int64_t unit, int64_t unit_tokens, Range middle) {
  return Intersect({unit * unit_tokens, (unit + 1) * unit_tokens}, middle);
}

inline SequenceLayout LayoutOfUnits(const SequenceLayout& layout, int64_t unit_tokens) {
  return {layout.stripe_tokens / unit_tokens, layout.num_ranks};
}

}  // namespace longspan

#endif  // LONGSPAN_SHARDING_UNITS_H_
