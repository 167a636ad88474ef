#ifndef LONGSPAN_SHARDING_RANK_CALLS_H_
#define LONGSPAN_SHARDING_RANK_CALLS_H_

#include <vector>

#include "sharding/layer_program.h"

namespace longspan {

// The collective calls that `rank` makes in a layer, in order; of an exchange, its own messages
// alone. Rings are calls step by step.
std::vector<Collective> CallsOfRank(const LayerProgram& program, int num_ranks, int rank);

}  // namespace longspan

#endif  // LONGSPAN_SHARDING_RANK_CALLS_H_
