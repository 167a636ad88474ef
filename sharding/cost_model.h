#ifndef LONGSPAN_SHARDING_COST_MODEL_H_
#define LONGSPAN_SHARDING_COST_MODEL_H_

#include <cstdint>

#include "absl/types/span.h"
#include "sharding/hardware_profile.h"
#include "sharding/model_work.h"
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

// Seconds of one call of a kernel on one of `ranks` ranks: its overhead, and the slower of its
// bytes and flops at the rate that it reaches; in turns where ranks share processors.
double KernelSeconds(const HardwareProfile& profile, int ranks, Kernel kernel, const Work& work);

// What a collective asks of the links, as the busiest rank sees it. Its seconds are linear in this,
// so that latencies and rates can be fitted.
struct LinkUse {
  double calls = 0;
  double steps_within = 0;  // messages one after the other, inside a host
  double bytes_within = 0;  // through a rank's port, inside a host
  double steps_between = 0, bytes_between = 0;

  LinkUse operator+(const LinkUse& other) const;
};
double LinkSeconds(const HardwareProfile& profile, const LinkUse& use);

// Collectives of `ranks` ranks, ranks_per_host on each host, in two tiers: first between the ranks
// that have the same place on each host, then inside hosts. All are of the logarithmic kind, which
// needs the fewest messages: that libraries do this for small sizes, and lose little to rings for
// large ones, is an assumption.
//
// All-gather by recursive doubling (Bruck): log2 messages a tier, each byte received once.
// `total_bytes` is the sum of all ranks' parts, however they differ.
LinkUse AllGatherUse(const HardwareProfile& profile, int ranks, double total_bytes);
// All-reduce of `bytes` on each rank: up to kHalvingBytes by recursive doubling of the whole (log2
// messages of all bytes), beyond by halving and doubling (Rabenseifner: twice the messages, twice
// the bytes in all, of which a host's ranks each take a share between hosts).
inline constexpr double kHalvingBytes = 64 << 10;
LinkUse AllReduceUse(const HardwareProfile& profile, int ranks, double bytes);
// A broadcast by a binomial tree.
LinkUse BroadcastUse(const HardwareProfile& profile, int ranks, double bytes);
// One message from rank to rank.
LinkUse MessageUse(const HardwareProfile& profile, int from, int to, double bytes);

}  // namespace longspan

#endif  // LONGSPAN_SHARDING_COST_MODEL_H_
