#ifndef LONGSPAN_RUNTIME_BLOCK_IN_FLIGHT_H_
#define LONGSPAN_RUNTIME_BLOCK_IN_FLIGHT_H_

#include <algorithm>
#include <cstddef>
#include <cstdint>

#include "kernels/attention.h"
#include "runtime/attention_context.h"
#include "sharding/ring_schedule.h"
#include "sharding/sequence_layout.h"

namespace longspan {

// A block of queries under way: keys and values are collected in tiles, as they arrive, and a full
// tile is attended to at once.
class BlockInFlight {
 public:
  // queries: [tokens, heads, head_dim] float32 before RoPE, read here only.
  BlockInFlight(const AttentionContext& context, const BlockKeys& keys, Range tokens,
                const float* queries);

  // Takes one key and value as the cache holds them: [kv_heads, head_dim], keys before RoPE.
  void Append(const std::byte* key, const std::byte* value, int64_t position, bool far);
  // Attends to what is left. output: [tokens, heads, head_dim]; lse (may be null): [tokens, heads].
  void Finish(float* output, float* lse);

  // Calls f(position, is_far) for what the block reads in `window`, ascending.
  template <typename F>
  void ForEachKey(Range window, F&& f) const {
    auto far = std::lower_bound(keys_.far.begin(), keys_.far.end(), window.begin);
    for (; far != keys_.far.end() && *far < window.end; ++far) f(*far, true);
    const Range near = Intersect(keys_.near, window);
    for (int64_t p = near.begin; p < near.end; ++p) f(p, false);
  }

 private:
  const AttentionContext& context_;
  const BlockKeys& keys_;
  BlockAttention attention_;
  KeyTile near_, far_;
};

}  // namespace longspan

#endif  // LONGSPAN_RUNTIME_BLOCK_IN_FLIGHT_H_
