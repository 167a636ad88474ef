#ifndef LONGSPAN_SHARDING_TOPK_MERGE_H_
#define LONGSPAN_SHARDING_TOPK_MERGE_H_

#include <bit>
#include <cstdint>
#include <vector>

#include "absl/types/span.h"

namespace longspan {

// A (score, position) pair as one integer whose descending order is the total order of the
// selection: score descending (-0 equals +0, NaN last), then position ascending. One integer
// comparison therefore decides alike at every stage, local and global. Zero is "no candidate": it
// stands after every real one.
using Candidate = uint64_t;

// Positions are below 2^32 - 1.
inline constexpr int64_t kMaxPosition = 0xfffffffe;

// Order-preserving bits of a score; NaN gives 0, below -inf's.
inline uint32_t OrderedBits(float score) {
  if (score != score) return 0;
  const uint32_t bits = std::bit_cast<uint32_t>(score + 0.0f);  // -0 + 0 = +0
  return (bits & 0x80000000u) != 0 ? ~bits : bits | 0x80000000u;
}

inline Candidate PackCandidate(float score, int64_t position) {
  return static_cast<uint64_t>(OrderedBits(score)) << 32 |
         (0xffffffffu - static_cast<uint32_t>(position));
}

constexpr int64_t PositionOf(Candidate candidate) {
  return 0xffffffffu - static_cast<uint32_t>(candidate);
}

// The positions of the k first candidates of all ranks, ascending. `candidates` may be in any
// order, holds no position twice, and is reordered. Fewer than k come back if there are no more.
std::vector<int64_t> MergeTopK(absl::Span<Candidate> candidates, int64_t k);

}  // namespace longspan

#endif  // LONGSPAN_SHARDING_TOPK_MERGE_H_
