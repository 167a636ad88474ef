#ifndef LONGSPAN_SHARDING_LAYER_PROGRAM_H_
#define LONGSPAN_SHARDING_LAYER_PROGRAM_H_

#include <array>
#include <cstdint>
#include <functional>
#include <optional>
#include <variant>
#include <vector>

#include "absl/types/span.h"
#include "sharding/backend.h"
#include "sharding/hardware_profile.h"
#include "sharding/layer_schedule.h"
#include "sharding/merge_choice.h"
#include "sharding/model_work.h"
#include "sharding/phase.h"
#include "sharding/ring_traffic.h"

// What all ranks do in one layer, in order: the collectives of layer_schedule.h and the work
// between them. The simulator replays it; a test holds its calls equal to those of real ranks.
namespace longspan {

// A merge of candidates by histogram on CPUs (histogram_select.h): what of it depends on the
// scores.
struct HistogramMerge {
  int histograms = 1;    // that all rows of the merge take
  int64_t excess = 256;  // candidates of a row that are exchanged and do not win; at most 512
};

// A model on some ranks. How CPU and GPU ranks differ: CPU ranks gather queries as they are, reduce
// maxima group by group and agree on thresholds, and send keys or queries step by step. GPU ranks
// gather queries padded to the rank with most, reduce maxima once, bring keys for up to ring_groups
// groups of blocks, and merge by histogram in a form of their own (digit_select.h).
struct JobShape {
  ModelShape model;  // its `ranks` are those of layer.layout
  LayerShape layer;
  Backend backend = Backend::kCpu;
  int64_t panel_rows = 1;         // GPU: queries of a block are padded to these
  int64_t ring_groups = 4;        // GPU
  int64_t output_row_bytes = 0;   // GPU, deterministic decode: of what a token's owner gives to all
  std::optional<MergeWay> merge;  // empty: what is cheaper (CheaperMerge)
  HistogramMerge histogram;

  int ranks() const { return layer.layout.num_ranks; }
};

// How candidates of so many blocks or tokens are merged.
MergeWay MergeOf(const JobShape& job, int64_t rows);

// Work in which no rank waits for another. [ranks]
struct Compute {
  Kernel kernel = Kernel::kLinear;
  std::vector<Work> work;
};

// What attention to some keys costs: shares of a ring say how many.
struct AttentionCost {
  Work read, pair;
  Work Of(const RingShare& share) const {
    return read * static_cast<double>(share.reads) + pair * share.pairs;
  }
};

// Keys go round (CPU). In step i a rank sends to rank + i while it attends to what step i - 1
// brought; `in_order`, it attends when all of a round has arrived.
struct RingOfKeys {
  std::vector<RingTraffic> rounds;
  int64_t token_bytes = 0;
  bool in_order = false;
  AttentionCost cost;
  int64_t listed_keys = 0;  // of all ranks' blocks: what every rank plans from
};

// Queries go round (CPU): in step i a rank attends, with its own keys, for rank - i, and sends the
// partials back.
struct RingOfQueries {
  std::vector<int64_t> rows;  // [ranks]
  RingTraffic reads;          // of all keys
  TokenBytes token;
  AttentionCost cost;
};

// Keys come group by group (GPU), those of one group while the one before is attended to.
struct GroupsOfKeys {
  struct Group {
    Collective exchange;
    std::vector<Work> attend;  // [ranks]
  };
  std::vector<Group> groups;
  int64_t listed_keys = 0;  // of all ranks' blocks, one by one: every rank plans from these first
};

struct LayerOp {
  Phase phase = Phase::kLinear;
  std::variant<Compute, Collective, RingOfKeys, RingOfQueries, GroupsOfKeys> what;
};
using LayerProgram = std::vector<LayerOp>;

// What a block selects of `middle`, ascending: top_k positions, or all if there are no more.
using SelectionSource = std::function<std::vector<int64_t>(Range block, Range middle)>;

// The prompt tokens of one forward pass.
struct ChunkShape {
  Range tokens;
  int64_t capacity = 0;  // tokens the sequence's cache has room for
  bool behind_cached = false;
};

// One layer of a chunk. Only its last `blocks_out` selection blocks leave the layer: for the others
// keys and values are all that is computed.
LayerProgram PrefillProgram(const JobShape& job, const ChunkShape& chunk, int64_t blocks_out,
                            const SelectionSource& select);

// One layer of the newest tokens of some sequences.
LayerProgram DecodeProgram(const JobShape& job, absl::Span<const int64_t> positions,
                           const SelectionSource& select);

}  // namespace longspan

#endif  // LONGSPAN_SHARDING_LAYER_PROGRAM_H_
