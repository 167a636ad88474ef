#include "sharding/rank_calls.h"

namespace longspan {
namespace {

std::vector<Collective> CallsOfRank(const RingOfKeys& ring, int num_ranks, int rank) {
  std::vector<Collective> calls;
  for (const RingTraffic& round : ring.rounds) {
    const size_t first = calls.size();
    calls.resize(first + num_ranks - 1, {CollectiveKind::kExchange, "ring.step", {}, {}});
    for (const RingShare& share : round.shares) {
      if (share.reader == share.owner || share.tokens == 0) continue;
      if (share.reader != rank && share.owner != rank) continue;
      calls[first + share.step(num_ranks) - 1].messages.push_back(
          {share.owner, share.reader, share.tokens * ring.token_bytes});
    }
  }
  return calls;
}

std::vector<Collective> CallsOfRank(const RingOfQueries& ring, int num_ranks, int rank) {
  std::vector<Collective> calls;
  const auto add = [&](std::string_view name, int to, int from, int64_t sent, int64_t received) {
    Collective& call = calls.emplace_back(Collective{CollectiveKind::kExchange, name, {}, {}});
    if (sent > 0) call.messages.push_back({rank, to, sent});
    if (received > 0) call.messages.push_back({from, rank, received});
  };
  const auto add_queries = [&](int step) {
    if (step >= num_ranks) return;
    const int to = RingDestination(rank, step, num_ranks), from = RingSource(rank, step, num_ranks);
    add("ring.queries", to, from, ring.rows[rank] * ring.token.query,
        ring.rows[from] * ring.token.query);
  };
  add_queries(1);
  for (int step = 1; step < num_ranks; ++step) {
    add_queries(step + 1);
    const int to = RingSource(rank, step, num_ranks), from = RingDestination(rank, step, num_ranks);
    add("ring.partials", to, from, ring.rows[to] * ring.token.partial,
        ring.rows[rank] * ring.token.partial);
  }
  return calls;
}

}  // namespace

std::vector<Collective> CallsOfRank(const LayerProgram& program, int num_ranks, int rank) {
  std::vector<Collective> calls;
  const auto add_exchange = [&](const Collective& exchange) {
    Collective& call = calls.emplace_back(exchange);
    std::erase_if(call.messages, [rank](const Message& message) {
      return message.from != rank && message.to != rank;
    });
  };
  for (const LayerOp& op : program) {
    if (const auto* collective = std::get_if<Collective>(&op.what)) {
      add_exchange(*collective);
    } else if (const auto* groups = std::get_if<GroupsOfKeys>(&op.what)) {
      for (const GroupsOfKeys::Group& group : groups->groups) add_exchange(group.exchange);
    } else if (const auto* keys = std::get_if<RingOfKeys>(&op.what)) {
      const auto more = CallsOfRank(*keys, num_ranks, rank);
      calls.insert(calls.end(), more.begin(), more.end());
    } else if (const auto* queries = std::get_if<RingOfQueries>(&op.what)) {
      const auto more = CallsOfRank(*queries, num_ranks, rank);
      calls.insert(calls.end(), more.begin(), more.end());
    }
  }
  return calls;
}

}  // namespace longspan
