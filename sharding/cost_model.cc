#include "sharding/cost_model.h"

#include <algorithm>
#include <vector>

namespace longspan {
namespace {

// Bytes of each rank, to and from all others.
struct Traffic {
  explicit Traffic(int ranks) : sent(ranks), received(ranks) {}

  void Add(int from, int to, int64_t bytes) {
    if (from == to) return;
    sent[from] += bytes;
    received[to] += bytes;
  }
  int64_t Busiest() const {
    return std::max(*std::max_element(sent.begin(), sent.end()),
                    *std::max_element(received.begin(), received.end()));
  }

  std::vector<int64_t> sent, received;  // [rank]
};

Traffic TrafficOfKeys(const SequenceLayout& layout, absl::Span<const BlockKeys> blocks,
                      const TokenBytes& bytes) {
  Traffic traffic(layout.num_ranks);
  const auto readers = RunsByReader(layout.num_ranks, blocks);
  for (int reader = 0; reader < layout.num_ranks; ++reader) {
    for (const Range& run : readers[reader]) {
      for (int owner = 0; owner < layout.num_ranks; ++owner) {
        traffic.Add(owner, reader, layout.CountOwned(owner, run) * bytes.key_value);
      }
    }
  }
  return traffic;
}

Traffic TrafficOfQueries(const SequenceLayout& layout, absl::Span<const BlockKeys> blocks,
                         const TokenBytes& bytes) {
  Traffic traffic(layout.num_ranks);
  for (const BlockKeys& block : blocks) {
    for (int other = 0; other < layout.num_ranks; ++other) {
      traffic.Add(block.rank, other, block.queries * bytes.query);
      traffic.Add(other, block.rank, block.queries * bytes.partial);
    }
  }
  return traffic;
}

}  // namespace

int64_t BytesOnBusiestRank(Moving moving, const SequenceLayout& layout,
                           absl::Span<const BlockKeys> blocks, const TokenBytes& bytes) {
  return moving == Moving::kKeys ? TrafficOfKeys(layout, blocks, bytes).Busiest()
                                 : TrafficOfQueries(layout, blocks, bytes).Busiest();
}

Moving CheaperToMove(const SequenceLayout& layout, absl::Span<const BlockKeys> blocks,
                     const TokenBytes& bytes) {
  return BytesOnBusiestRank(Moving::kQueries, layout, blocks, bytes) <
                 BytesOnBusiestRank(Moving::kKeys, layout, blocks, bytes)
             ? Moving::kQueries
             : Moving::kKeys;
}

}  // namespace longspan
