#ifndef LONGSPAN_KERNELS_REPRESENTATIVES_H_
#define LONGSPAN_KERNELS_REPRESENTATIVES_H_

#include <cstdint>

#include "kernels/score.h"

namespace longspan {

// The mean of a unit's representative keys (docs/ALGORITHM.md, "Units"): those `representatives` of
// its keys, all if it has no more, that are farthest from the mean of its keys; of equally far ones
// the first. Distances that are NaN come last. out: [dim]. At least one key.
void MeanRepresentative(const ScoreKeys& unit, int64_t dim, int64_t representatives, float* out);

}  // namespace longspan

#endif  // LONGSPAN_KERNELS_REPRESENTATIVES_H_
