#ifndef LONGSPAN_SHARDING_COST_MODEL_H_
#define LONGSPAN_SHARDING_COST_MODEL_H_

#include <cstdint>

#include "absl/types/span.h"
#include "sharding/ring_schedule.h"
#include "sharding/sequence_layout.h"

namespace longspan {

// What goes round the ring: keys and values to the ranks whose queries read them, or queries to all
// ranks and partial results back.
enum class Moving { kKeys, kQueries };

// Bytes of one token as it travels.
struct TokenBytes {
  int64_t key_value = 0;  // a key row and a value row
  int64_t query = 0;
  int64_t partial = 0;  // an output row and its log-sum-exp
};

// The most bytes that any one rank sends, or that any one receives, to attend to `blocks`.
int64_t BytesOnBusiestRank(Moving moving, const SequenceLayout& layout,
                           absl::Span<const BlockKeys> blocks, const TokenBytes& bytes);

// What moves with fewer bytes on the busiest rank; keys if it makes no difference. A pure function
// of what all ranks know, so that all choose the same.
Moving CheaperToMove(const SequenceLayout& layout, absl::Span<const BlockKeys> blocks,
                     const TokenBytes& bytes);

}  // namespace longspan

#endif  // LONGSPAN_SHARDING_COST_MODEL_H_
