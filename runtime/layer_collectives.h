#ifndef LONGSPAN_RUNTIME_LAYER_COLLECTIVES_H_
#define LONGSPAN_RUNTIME_LAYER_COLLECTIVES_H_

#include <vector>

#include "absl/status/status.h"
#include "runtime/attention_context.h"
#include "sharding/layer_schedule.h"

namespace longspan {

// What CPU ranks make their collective calls from.
LayerShape LayerShapeOf(const AttentionContext& context);

// Make the call that a schedule says. mine: this rank's part; all: those of all ranks, which is
// resized.
absl::Status AllGather(Communicator* communicator, const Collective& gather,
                       const std::vector<float>& mine, std::vector<float>* all);
absl::Status AllReduceMax(Communicator* communicator, const Collective& reduction,
                          std::vector<float>* data);
// Exact. Of numbers from 0 whose sum is below 2^63.
absl::Status AllReduceSum(Communicator* communicator, const Collective& reduction,
                          std::vector<int64_t>* data);

}  // namespace longspan

#endif  // LONGSPAN_RUNTIME_LAYER_COLLECTIVES_H_
