#ifndef LONGSPAN_SHARDING_LAYER_SCHEDULE_H_
#define LONGSPAN_SHARDING_LAYER_SCHEDULE_H_

#include <cstdint>
#include <optional>
#include <string_view>
#include <vector>

#include "absl/types/span.h"
#include "sharding/attention_ranges.h"
#include "sharding/cost_model.h"
#include "sharding/ring_schedule.h"
#include "sharding/sequence_layout.h"

// What ranks say to each other in one layer, as plain data: names, sizes and who talks to whom. The
// runtime makes its calls from these functions, and the simulator replays them.
namespace longspan {

// Buffers that would grow with the context are cut to these sizes; the work is done in parts.
struct BufferLimits {
  int64_t ring_round_tokens = 32768;     // different positions that one round of the ring moves
  int64_t tile_maxima_bytes = 16 << 20;  // of one block: tiles grow instead
  int64_t tile_group_bytes = 32 << 20;   // of the blocks that share a reduction of maxima
};

// All that the schedule of a layer's attention follows from; the same on all ranks.
struct LayerShape {
  SequenceLayout layout;
  AttentionSizes sizes;
  int64_t top_k = 0;            // 0: nothing is selected
  int64_t unit_tokens = 1;      // that are selected together (units.h)
  int64_t halo = 0;             // tokens of a stripe's neighbours whose score keys it keeps
  int64_t score_row_bytes = 0;  // of a score key in the cache
  int64_t query_row_bytes = 0;  // of what the score reads of a query, as it travels
  // Where several voters score: the heads, or groups of dimensions; 0: it is the head sum.
  int64_t voters = 0;
  bool soft_votes = false;  // each voter's scores are normalised over all keys
  TokenBytes token;
  BufferLimits limits;
  // Of the kernels that keep maxima of tiles of keys.
  int64_t panel_lanes = 1, min_tile_keys = 1;
  bool deterministic = false;
  std::optional<Moving> moving;  // in prefill; empty: what is cheaper

  int64_t picks() const { return top_k / unit_tokens; }
};

enum class CollectiveKind { kAllGather, kAllReduceMax, kAllReduceSum, kBroadcast, kExchange };

struct Message {
  int from = 0, to = 0;
  int64_t bytes = 0;
  friend bool operator==(const Message&, const Message&) = default;
};

// One collective as all ranks make it together.
struct Collective {
  CollectiveKind kind = CollectiveKind::kAllGather;
  std::string_view name;  // a string literal
  // All-gather: of each rank's part, [ranks]. Reductions and broadcasts: of the one vector, [1].
  std::vector<int64_t> bytes;
  std::vector<Message> messages;  // exchange: between two ranks, none of them empty
  friend bool operator==(const Collective&, const Collective&) = default;

  int64_t TotalBytes() const;  // of `bytes` and of messages
};

// A block that has more to select from than it may take.
struct SelectingBlock {
  int rank = 0;  // owner of the queries
  int64_t queries = 0;
  Range middle;  // in units
};

// Every rank gets what the score reads of all queries, rank by rank, each rank's in order of
// blocks.
Collective GatherQueries(const LayerShape& shape, absl::Span<const SelectingBlock> blocks);

// Consecutive blocks whose maxima are reduced together, since tile maxima of all are held at once.
struct MaximaGroup {
  std::vector<int64_t> tile_keys;  // [blocks] keys of a tile
  int64_t lanes = 0;               // of all blocks' queries, padded to panels
  int64_t tile_bytes = 0;          // of tile maxima, on the rank with most
};
std::vector<MaximaGroup> GroupMaxima(const LayerShape& shape,
                                     absl::Span<const SelectingBlock> blocks);
Collective ReduceMaxima(const MaximaGroup& group);
Collective ReduceThresholds(const MaximaGroup& group);

// Of scores by voters: each query's maximum, or that of each of its voters where they are
// normalised; and then the sums that they are normalised by, as digits. `queries` are those of all
// blocks, each padded to panels, or decoded tokens.
inline constexpr int64_t kVoteSumDigits = 4;  // of 32 bits, of one sum
int64_t CountLanes(const LayerShape& shape, absl::Span<const SelectingBlock> blocks);
Collective ReduceVoterMaxima(const LayerShape& shape, int64_t queries);
Collective ReduceVoterSums(const LayerShape& shape, int64_t queries);

// Every rank gets the candidates of all, picks() for each of `rows` blocks or tokens.
Collective GatherCandidates(const LayerShape& shape, int64_t rows);

// Score keys that a stripe keeps of its neighbour's edge.
struct HaloMove {
  int64_t from = 0;  // stripe that the positions belong to
  int64_t to = 0;    // stripe whose halo takes them
  Range positions;
};
// Those of the prompt's tokens `chunk`, in an order that all ranks share, and of the cached tokens
// before it if it is the first `behind_cached` ones. The cache has room for `capacity` tokens.
std::vector<HaloMove> HaloMoves(const SequenceLayout& layout, int64_t halo, Range chunk,
                                int64_t capacity, bool behind_cached);
Collective ExchangeHalos(const LayerShape& shape, absl::Span<const HaloMove> moves);

// What a block reads: the initial tokens and what it selected, ascending, then what is near.
BlockKeys ReadsOf(Range block, int rank, const AttentionRanges& ranges,
                  absl::Span<const int64_t> selected);

// What goes round the ring in prefill: keys in deterministic mode, else what is cheaper.
Moving ChooseMoving(const LayerShape& shape, absl::Span<const BlockKeys> blocks);

// Queries that each rank sends to all others when queries move. [ranks]
std::vector<int64_t> QueriesByRank(int num_ranks, absl::Span<const BlockKeys> blocks);

// Every rank gets all ranks' partials of `rows` decoded tokens.
Collective GatherPartials(const LayerShape& shape, int64_t rows);

// Blocks, given their owners, by index, in at most `max_groups` groups that are alike on all ranks:
// some of each rank's, in order. The keys of one group arrive while the one before is attended to.
std::vector<std::vector<size_t>> RingGroups(absl::Span<const int> owners, int num_ranks,
                                            int64_t max_groups);

}  // namespace longspan

#endif  // LONGSPAN_SHARDING_LAYER_SCHEDULE_H_
