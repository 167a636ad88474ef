#ifndef LONGSPAN_SHARDING_RING_SCHEDULE_H_
#define LONGSPAN_SHARDING_RING_SCHEDULE_H_

#include <cstdint>
#include <vector>

#include "absl/types/span.h"
#include "sharding/sequence_layout.h"

namespace longspan {

// What one query block reads of the cache, and where it is computed.
struct BlockKeys {
  int rank = 0;              // owner of the queries
  int64_t queries = 0;       // tokens
  std::vector<int64_t> far;  // positions, ascending: initial and selected ones
  Range near;                // positions behind every far one
};

// One round of the ring. In step i (0 <= i < P) a rank sends to rank + i and receives from rank - i
// (mod P); step 0 is its own tokens. Runs are ascending and disjoint; a message holds their tokens
// one after the other.
struct RingRound {
  Range window;                              // only positions in here take part
  std::vector<std::vector<Range>> sends;     // [destination] runs of this rank's positions
  std::vector<std::vector<Range>> receives;  // [source] runs of the source's positions
};

// What the blocks of each rank read: runs, ascending and apart. [rank]
std::vector<std::vector<Range>> RunsByReader(int num_ranks, absl::Span<const BlockKeys> blocks);

// The windows of the ring's rounds: each has at most max_tokens of the positions that are read.
// There are as many rounds as make min_steps steps of the ring in all, if each then has
// kMinRoundTokens.
inline constexpr int64_t kMinRoundTokens = 1024;
std::vector<Range> RingWindows(absl::Span<const std::vector<Range>> readers, int64_t max_tokens,
                               int64_t min_steps = 1);
// For prompts: nothing but attention to a rank's own keys of the first round hides the first step,
// so that one of eight may be waited for.
inline constexpr int64_t kPromptRingSteps = 8;

// The rounds of `rank` that bring each token that a block reads to the block's rank, once for each
// rank that reads it. Every rank derives matching rounds from the same blocks. A round moves at
// most about `max_tokens` different positions, so that buffers do not grow with the context.
std::vector<RingRound> PlanRing(const SequenceLayout& layout, int rank,
                                absl::Span<const BlockKeys> blocks, int64_t max_tokens,
                                int64_t min_steps = 1);

// What the reader of each of `readers` was not brought before, as PlanGroup: [rank] runs. Adds it
// to `brought`.
std::vector<std::vector<Range>> NotBrought(std::vector<std::vector<Range>> readers,
                                           std::vector<std::vector<Range>>* brought);

// The round of `rank`, over all positions, that brings what `blocks` read and their ranks were not
// brought before: [rank] runs of `brought`, ascending and apart, to which it adds. So blocks may
// come group by group, and each token still moves once to each rank that reads it. It is the plain
// form of what GPUs plan (kernels/cuda/ring_plan.h), and tests hold the two equal.
RingRound PlanGroup(const SequenceLayout& layout, int rank, absl::Span<const BlockKeys> blocks,
                    std::vector<std::vector<Range>>* brought);

inline int RingDestination(int rank, int step, int num_ranks) { return (rank + step) % num_ranks; }
inline int RingSource(int rank, int step, int num_ranks) {
  return (rank - step + num_ranks) % num_ranks;
}

int64_t CountTokens(absl::Span<const Range> runs);

}  // namespace longspan

#endif  // LONGSPAN_SHARDING_RING_SCHEDULE_H_
