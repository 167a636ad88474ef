#ifndef LONGSPAN_SHARDING_ATTENTION_RANGES_H_
#define LONGSPAN_SHARDING_ATTENTION_RANGES_H_

#include <cstdint>
#include <vector>

#include "sharding/sequence_layout.h"

namespace longspan {

// Sizes that decide what a block of queries attends to (tokens).
struct AttentionSizes {
  int64_t initial_tokens = 0;
  int64_t local_tokens = 0;
  bool dense = false;  // everything is near
};

// What the query block [p0, p1) attends to. Without selection, `initial` and `middle` are empty and
// `near` is [0, p1). Otherwise near = [p0 - local, p1), initial = [0, initial_tokens) and middle is
// what lies between: the positions to select from.
struct AttentionRanges {
  Range initial;
  Range middle;
  Range near;

  bool selects() const { return !initial.empty() || !middle.empty(); }
};

AttentionRanges RangesOfBlock(const AttentionSizes& sizes, Range block);

// Cuts the prompt positions `range` into selection blocks of `block_tokens`, aligned at 0.
std::vector<Range> SelectionBlocks(Range range, int64_t block_tokens);

}  // namespace longspan

#endif  // LONGSPAN_SHARDING_ATTENTION_RANGES_H_
