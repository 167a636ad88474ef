#ifndef LONGSPAN_SHARDING_RING_TRAFFIC_H_
#define LONGSPAN_SHARDING_RING_TRAFFIC_H_

#include <cstdint>
#include <vector>

#include "absl/types/span.h"
#include "sharding/ring_schedule.h"
#include "sharding/sequence_layout.h"

// What PlanRing and PlanGroup plan for each rank, for all ranks in one pass: thousands of ranks can
// then be simulated. Tests hold the two equal.
namespace longspan {

// What one rank reads of another, or of itself.
struct RingShare {
  int reader = 0, owner = 0;
  int64_t tokens = 0;  // different positions: what moves
  int64_t reads = 0;   // the same, counted for each block that reads them
  double pairs = 0;    // of a query and a key that it sees

  // The step of the ring in which it moves; 0: it does not.
  int step(int num_ranks) const { return (reader - owner + num_ranks) % num_ranks; }
};

// One round. Shares that are empty are left out; they are in order of step, then of reader.
struct RingTraffic {
  Range window;
  std::vector<RingShare> shares;
};

// The rounds of PlanRing.
std::vector<RingTraffic> TrafficOfRing(const SequenceLayout& layout,
                                       absl::Span<const BlockKeys> blocks, int64_t max_tokens,
                                       int64_t min_steps = 1);

// The round of PlanGroup. `reads` and `pairs` are 0.
RingTraffic TrafficOfGroup(const SequenceLayout& layout, absl::Span<const BlockKeys> blocks,
                           std::vector<std::vector<Range>>* brought);

// (query, key) pairs of a block with the keys of `keys`, of which queries see those up to
// themselves.
double PairsWith(const BlockKeys& block, Range keys);

}  // namespace longspan

#endif  // LONGSPAN_SHARDING_RING_TRAFFIC_H_
