#include "sharding/layer_schedule.h"

#include <algorithm>
#include <numeric>

#include "sharding/topk_merge.h"
#include "sharding/units.h"

namespace longspan {
namespace {

constexpr auto kFloat = static_cast<int64_t>(sizeof(float));

int64_t Lanes(const LayerShape& shape, const SelectingBlock& block) {
  return (block.queries + shape.panel_lanes - 1) / shape.panel_lanes * shape.panel_lanes;
}

// The same on all ranks: of the rank with the most keys.
int64_t TileMaximaBytes(const LayerShape& shape, const SelectingBlock& block, int64_t tile_keys) {
  const SequenceLayout layout = LayoutOfUnits(shape.layout, shape.unit_tokens);
  const int64_t stripes =
      layout.stripe(block.middle.end - 1) - layout.stripe(block.middle.begin) + 1;
  const int64_t runs = (stripes + layout.num_ranks - 1) / layout.num_ranks;
  const int64_t keys = std::min(block.middle.size(), runs * layout.stripe_tokens);
  return (keys / tile_keys + runs) * Lanes(shape, block) * kFloat;
}

// The smallest tiles whose maxima fit.
int64_t ChooseTileKeys(const LayerShape& shape, const SelectingBlock& block) {
  int64_t tile_keys = shape.min_tile_keys;
  while (tile_keys < block.middle.size() &&
         TileMaximaBytes(shape, block, tile_keys) > shape.limits.tile_maxima_bytes) {
    tile_keys *= 2;
  }
  return tile_keys;
}

Collective GatherEqual(std::string_view name, int ranks, int64_t bytes) {
  return {CollectiveKind::kAllGather, name, std::vector<int64_t>(ranks, bytes), {}};
}

}  // namespace

int64_t Collective::TotalBytes() const {
  int64_t total = std::accumulate(bytes.begin(), bytes.end(), int64_t{0});
  for (const Message& message : messages) total += message.bytes;
  return total;
}

Collective GatherQueries(const LayerShape& shape, absl::Span<const SelectingBlock> blocks) {
  Collective gather = GatherEqual("select.queries", shape.layout.num_ranks, 0);
  for (const SelectingBlock& block : blocks) {
    gather.bytes[block.rank] += block.queries * shape.query_row_bytes;
  }
  return gather;
}

std::vector<MaximaGroup> GroupMaxima(const LayerShape& shape,
                                     absl::Span<const SelectingBlock> blocks) {
  std::vector<MaximaGroup> groups;
  for (const SelectingBlock& block : blocks) {
    const int64_t tile_keys = ChooseTileKeys(shape, block);
    const int64_t bytes = TileMaximaBytes(shape, block, tile_keys);
    if (groups.empty() || groups.back().tile_bytes + bytes > shape.limits.tile_group_bytes) {
      groups.emplace_back();
    }
    groups.back().tile_keys.push_back(tile_keys);
    groups.back().lanes += Lanes(shape, block);
    groups.back().tile_bytes += bytes;
  }
  return groups;
}

Collective ReduceMaxima(const MaximaGroup& group) {
  return {CollectiveKind::kAllReduceMax, "select.maxima", {group.lanes * kFloat}, {}};
}

Collective ReduceThresholds(const MaximaGroup& group) {
  const auto blocks = static_cast<int64_t>(group.tile_keys.size());
  return {CollectiveKind::kAllReduceMax, "select.thresholds", {blocks * kFloat}, {}};
}

int64_t CountLanes(const LayerShape& shape, absl::Span<const SelectingBlock> blocks) {
  int64_t lanes = 0;
  for (const SelectingBlock& block : blocks) lanes += Lanes(shape, block);
  return lanes;
}

Collective ReduceVoterMaxima(const LayerShape& shape, int64_t queries) {
  const int64_t maxima = queries * (shape.soft_votes ? shape.voters : 1);
  return {CollectiveKind::kAllReduceMax, "select.maxima", {maxima * kFloat}, {}};
}

Collective ReduceVoterSums(const LayerShape& shape, int64_t queries) {
  const int64_t digits = queries * shape.voters * kVoteSumDigits;
  return {CollectiveKind::kAllReduceSum,
          "select.sums",
          {digits * static_cast<int64_t>(sizeof(uint32_t))},
          {}};
}

Collective GatherCandidates(const LayerShape& shape, int64_t rows) {
  return GatherEqual("select.candidates", shape.layout.num_ranks,
                     rows * shape.picks() * static_cast<int64_t>(sizeof(Candidate)));
}

std::vector<HaloMove> HaloMoves(const SequenceLayout& layout, int64_t halo, Range chunk,
                                int64_t capacity, bool behind_cached) {
  const int64_t stripe = layout.stripe_tokens;
  const int64_t last = (capacity - 1) / stripe;
  std::vector<HaloMove> moves;
  const auto add = [&](int64_t from, int64_t to, Range edge) {
    const Range positions = Intersect(edge, chunk);
    if (!positions.empty()) moves.push_back({from, to, positions});
  };
  if (behind_cached) {
    // The stripe behind that of the last cached token is new.
    const int64_t s = (chunk.begin - 1) / stripe;
    const Range positions = {(s + 1) * stripe - halo, chunk.begin};
    if (s < last && !positions.empty()) moves.push_back({s, s + 1, positions});
  }
  for (int64_t s = chunk.begin / stripe; s * stripe < chunk.end; ++s) {
    if (s > 0) add(s, s - 1, {s * stripe, s * stripe + halo});
    if (s < last) add(s, s + 1, {(s + 1) * stripe - halo, (s + 1) * stripe});
  }
  return moves;
}

Collective ExchangeHalos(const LayerShape& shape, absl::Span<const HaloMove> moves) {
  Collective exchange = {CollectiveKind::kExchange, "store.halos", {}, {}};
  std::vector<Message>& messages = exchange.messages;
  for (const HaloMove& move : moves) {
    const int from = static_cast<int>(move.from % shape.layout.num_ranks);
    const int to = static_cast<int>(move.to % shape.layout.num_ranks);
    if (from == to) continue;
    messages.push_back({from, to, move.positions.size() * shape.score_row_bytes});
  }
  // Ranks send one message to each other rank, of all rows that it gets.
  std::sort(messages.begin(), messages.end(), [](const Message& a, const Message& b) {
    return a.from != b.from ? a.from < b.from : a.to < b.to;
  });
  std::vector<Message> joined;
  for (const Message& message : messages) {
    if (!joined.empty() && joined.back().from == message.from && joined.back().to == message.to) {
      joined.back().bytes += message.bytes;
    } else {
      joined.push_back(message);
    }
  }
  messages = joined;
  return exchange;
}

BlockKeys ReadsOf(Range block, int rank, const AttentionRanges& ranges,
                  absl::Span<const int64_t> selected) {
  BlockKeys keys;
  keys.rank = rank;
  keys.queries = block.size();
  keys.far.resize(ranges.initial.size());
  std::iota(keys.far.begin(), keys.far.end(), ranges.initial.begin);
  keys.far.insert(keys.far.end(), selected.begin(), selected.end());
  keys.near = ranges.near;
  return keys;
}

Moving ChooseMoving(const LayerShape& shape, absl::Span<const BlockKeys> blocks) {
  if (shape.deterministic) return Moving::kKeys;
  return shape.moving.has_value() ? *shape.moving
                                  : CheaperToMove(shape.layout, blocks, shape.token);
}

std::vector<int64_t> QueriesByRank(int num_ranks, absl::Span<const BlockKeys> blocks) {
  std::vector<int64_t> rows(num_ranks, 0);
  for (const BlockKeys& block : blocks) rows[block.rank] += block.queries;
  return rows;
}

Collective GatherPartials(const LayerShape& shape, int64_t rows) {
  return GatherEqual("decode.partials", shape.layout.num_ranks, rows * shape.token.partial);
}

std::vector<std::vector<size_t>> RingGroups(absl::Span<const int> owners, int num_ranks,
                                            int64_t max_groups) {
  std::vector<int64_t> of_rank(num_ranks, 0);
  for (const int owner : owners) ++of_rank[owner];
  const int64_t most = *std::max_element(of_rank.begin(), of_rank.end());
  const int64_t a_group = (most + max_groups - 1) / max_groups;
  std::vector<std::vector<size_t>> groups(a_group == 0 ? 0 : (most + a_group - 1) / a_group);
  std::fill(of_rank.begin(), of_rank.end(), 0);
  for (size_t b = 0; b < owners.size(); ++b) {
    groups[of_rank[owners[b]]++ / a_group].push_back(b);
  }
  return groups;
}

}  // namespace longspan
