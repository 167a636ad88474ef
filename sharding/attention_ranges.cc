#include "sharding/attention_ranges.h"

#include <algorithm>

namespace longspan {

AttentionRanges RangesOfBlock(const AttentionSizes& sizes, Range block) {
  const int64_t lo = std::max<int64_t>(0, block.begin - sizes.local_tokens);
  if (sizes.dense || lo <= sizes.initial_tokens) return {{}, {}, {0, block.end}};
  return {.initial = {0, sizes.initial_tokens},
          .middle = {sizes.initial_tokens, lo},
          .near = {lo, block.end}};
}

std::vector<Range> SelectionBlocks(Range range, int64_t block_tokens) {
  std::vector<Range> blocks;
  for (int64_t begin = range.begin; begin < range.end;) {
    const int64_t end = std::min(range.end, (begin / block_tokens + 1) * block_tokens);
    blocks.push_back({begin, end});
    begin = end;
  }
  return blocks;
}

}  // namespace longspan
