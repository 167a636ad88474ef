#ifndef LONGSPAN_RUNTIME_CUDA_CUDA_RING_H_
#define LONGSPAN_RUNTIME_CUDA_CUDA_RING_H_

#include <cstddef>
#include <cstdint>
#include <vector>

#include "absl/status/status.h"
#include "runtime/cuda/cuda_run.h"
#include "sharding/ring_schedule.h"

namespace longspan {

// Brings the keys and values of a round's runs, this rank's own too, to run->buffers.arrived: a
// source after the other, [tokens, key row then value row]. Collective.
absl::Status BringKeys(CudaRun* run, int64_t layer, KvShard* cache, const RingRound& round);

// Where in `arrived` a position's row is. Positions must be asked for in ascending order.
class ArrivedRows {
 public:
  ArrivedRows(const AttentionContext& context, const RingRound& round);
  uint32_t RowOf(int64_t position);

 private:
  const AttentionContext& context_;
  const RingRound& round_;
  std::vector<size_t> run_;     // [source] the current run
  std::vector<int64_t> first_;  // [source] row of its first token
};

}  // namespace longspan

#endif  // LONGSPAN_RUNTIME_CUDA_CUDA_RING_H_
