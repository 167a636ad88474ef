#include "sharding/simulator.h"

#include <algorithm>
#include <numeric>
#include <utility>

#include "sharding/cost_model.h"

namespace longspan {
namespace {

double Mean(const std::vector<double>& values) {
  return std::accumulate(values.begin(), values.end(), 0.0) / static_cast<double>(values.size());
}

}  // namespace

LinkUse CollectiveUse(const HardwareProfile& profile, int ranks, const Collective& collective) {
  switch (collective.kind) {
    case CollectiveKind::kAllGather:
      return AllGatherUse(profile, ranks, static_cast<double>(collective.TotalBytes()));
    case CollectiveKind::kBroadcast:
      return BroadcastUse(profile, ranks, static_cast<double>(collective.bytes[0]));
    default:
      return AllReduceUse(profile, ranks, static_cast<double>(collective.bytes[0]));
  }
}

Simulator::Simulator(const HardwareProfile& profile, int num_ranks)
    : profile_(profile),
      ranks_(num_ranks),
      now_(num_ranks),
      sending_(num_ranks),
      receiving_(num_ranks),
      imbalance_(num_ranks),
      exchanged_(num_ranks) {
  phases_.fill(std::vector<double>(num_ranks));
}

double Simulator::seconds() const { return *std::max_element(now_.begin(), now_.end()); }

double Simulator::MostSeconds(Phase phase) const {
  const std::vector<double>& of_rank = phases_[static_cast<int>(phase)];
  return *std::max_element(of_rank.begin(), of_rank.end());
}

double Simulator::MeanSeconds(Phase phase) const { return Mean(phases_[static_cast<int>(phase)]); }

double Simulator::mean_imbalance() const { return Mean(imbalance_); }

double Simulator::mean_exchange() const { return Mean(exchanged_); }

void Simulator::Spend(Phase phase, int rank, double seconds) {
  now_[rank] += seconds;
  phases_[static_cast<int>(phase)][rank] += seconds;
}

void Simulator::Advance(Phase phase, int rank, double time) {
  Spend(phase, rank, std::max(0.0, time - now_[rank]));
}

void Simulator::Attend(int rank, const Work& work) {
  Spend(Phase::kAttend, rank, KernelSeconds(profile_, ranks_, Kernel::kAttend, work));
}

void Simulator::Count(std::string_view name, int64_t calls, double bytes) {
  calls_[name].calls += calls;
  calls_[name].bytes += bytes;
}

double Simulator::Transmit(const Message& message, double ready) {
  const bool same_host = profile_.host(message.from) == profile_.host(message.to);
  const LinkCost& link = same_host ? profile_.within_host : profile_.between_hosts;
  const double begin = std::max({ready, sending_[message.from], receiving_[message.to]});
  const double free = begin + static_cast<double>(message.bytes) / link.bytes_per_s;
  sending_[message.from] = receiving_[message.to] = free;
  exchanged_[message.to] += free + link.latency_s - begin;
  return free + link.latency_s;
}

void Simulator::Run(const LayerProgram& program) {
  for (const LayerOp& op : program) Run(op);
}

void Simulator::Run(const LayerOp& op) {
  std::visit([&](const auto& what) { Run(op.phase, what); }, op.what);
}

void Simulator::Run(Phase phase, const Compute& compute) {
  for (int r = 0; r < ranks_; ++r) {
    Spend(phase, r, KernelSeconds(profile_, ranks_, compute.kernel, compute.work[r]));
  }
}

void Simulator::Run(Phase phase, const Collective& collective) {
  if (ranks_ == 1) return;
  if (collective.kind == CollectiveKind::kExchange) {
    for (int r = 0; r < ranks_; ++r) Spend(phase, r, profile_.call_s);
    std::vector<double> done = now_;
    for (const Message& message : collective.messages) {
      const double there = Transmit(message, std::max(now_[message.from], now_[message.to]));
      for (const int end : {message.from, message.to}) done[end] = std::max(done[end], there);
    }
    for (int r = 0; r < ranks_; ++r) Advance(phase, r, done[r]);
    return Count(collective.name, 1, static_cast<double>(collective.TotalBytes()) / ranks_);
  }
  const LinkUse use = CollectiveUse(profile_, ranks_, collective);
  const double begin = seconds();
  const double end = begin + LinkSeconds(profile_, use);
  for (int r = 0; r < ranks_; ++r) {
    imbalance_[r] += begin - now_[r];
    Advance(phase, r, end);
  }
  Count(collective.name, 1, use.bytes_within + use.bytes_between);
}

// In step i a rank waits for what step i moves, starts step i + 1, in the last one the first of the
// next round, and attends. Of thousands of ranks most steps of most ranks move nothing: only those
// that move something are looked at, and the calls of the others are made up for when their rank is
// next looked at.
void Simulator::Run(Phase phase, const RingOfKeys& ring) {
  if (ring.rounds.empty()) return;
  SpendOnPlan(phase, ring.listed_keys);
  std::vector<RingCall> calls(ranks_);
  for (int r = 0; r < ranks_ && ranks_ > 1; ++r) Start(phase, r, 1, &calls[r]);
  for (const RingTraffic& round : ring.rounds) {
    std::vector<RingCall> of_next(ranks_);
    const bool is_last = &round == &ring.rounds.back();
    const auto end_calls = [&](int rank) {
      Start(phase, rank, ranks_ - 1, &calls[rank]);
      if (!is_last && ranks_ > 1) Start(phase, rank, 1, &of_next[rank]);
    };
    int64_t moved = 0;
    absl::Span<const RingShare> rest = round.shares;
    while (!rest.empty()) {
      const int step = rest[0].step(ranks_);
      const auto end = std::find_if(rest.begin(), rest.end(), [&](const RingShare& share) {
        return share.step(ranks_) != step;
      });
      const absl::Span<const RingShare> shares = rest.first(end - rest.begin());
      rest.remove_prefix(shares.size());
      if (step > 0) moved += MoveKeys(phase, shares, step, ring.token_bytes, &calls);
      for (const RingShare& share : shares) {
        if (ring.in_order) continue;
        if (step == ranks_ - 1) end_calls(share.reader);
        Attend(share.reader, ring.cost.Of(share));
      }
    }
    for (int r = 0; r < ranks_; ++r) end_calls(r);
    calls = std::move(of_next);
    if (ring.in_order) {
      std::vector<Work> work(ranks_);
      for (const RingShare& share : round.shares) {
        work[share.reader] = work[share.reader] + ring.cost.Of(share);
      }
      for (int r = 0; r < ranks_; ++r) Attend(r, work[r]);
    }
    if (ranks_ == 1) continue;
    Count("ring.step", ranks_ - 1, static_cast<double>(moved) / ranks_);
  }
}

void Simulator::SpendOnPlan(Phase phase, int64_t listed_keys) {
  const double seconds = profile_.plan_s + static_cast<double>(listed_keys) * profile_.plan_key_s;
  for (int r = 0; r < ranks_; ++r) Spend(phase, r, seconds);
}

// The rank has made all calls up to that of `step`.
void Simulator::Start(Phase phase, int rank, int step, RingCall* call) {
  if (step <= call->step) return;
  Spend(phase, rank, (step - call->step) * profile_.call_s);
  *call = {step, now_[rank]};
}

int64_t Simulator::MoveKeys(Phase phase, absl::Span<const RingShare> shares, int step,
                            int64_t token_bytes, std::vector<RingCall>* calls) {
  int64_t moved = 0;
  for (const RingShare& share : shares) {
    for (const int r : {share.reader, share.owner}) Start(phase, r, step, &(*calls)[r]);
  }
  std::vector<std::pair<int, double>> arrivals;  // each rank once as reader, once as owner, at most
  for (const RingShare& share : shares) {
    const Message message = {share.owner, share.reader, share.tokens * token_bytes};
    const double there =
        Transmit(message, std::max((*calls)[message.from].started, (*calls)[message.to].started));
    moved += message.bytes;
    arrivals.insert(arrivals.end(), {{message.from, there}, {message.to, there}});
  }
  for (const auto& [rank, there] : arrivals) Advance(phase, rank, there);
  for (const auto& [rank, there] : arrivals) {
    Start(phase, rank, std::min(step + 1, ranks_ - 1), &(*calls)[rank]);
  }
  return moved;
}

void Simulator::Run(Phase phase, const RingOfQueries& ring) {
  std::vector<double> started(ranks_), arrived(ranks_), returned(ranks_);
  const auto send_queries = [&](int step) {
    if (step >= ranks_) return;
    for (int r = 0; r < ranks_; ++r) Spend(phase, r, profile_.call_s);
    started = arrived = now_;
    for (int r = 0; r < ranks_; ++r) {
      const int to = RingDestination(r, step, ranks_);
      if (ring.rows[r] == 0) continue;
      const double there =
          Transmit({r, to, ring.rows[r] * ring.token.query}, std::max(started[r], started[to]));
      for (const int end : {r, to}) arrived[end] = std::max(arrived[end], there);
    }
  };
  const auto send_partials = [&](int step) {
    for (int r = 0; r < ranks_; ++r) Spend(phase, r, profile_.call_s);
    for (int r = 0; r < ranks_; ++r) {
      const int to = RingSource(r, step, ranks_);
      if (ring.rows[to] == 0) continue;
      const double there =
          Transmit({r, to, ring.rows[to] * ring.token.partial}, std::max(now_[r], now_[to]));
      for (const int end : {r, to}) returned[end] = std::max(returned[end], there);
    }
  };
  // The reader of a share is behind its owner by as many steps as the keys would have gone forward.
  const std::vector<RingShare>& shares = ring.reads.shares;
  const auto attend = [&](int step) {
    const int of_keys = (ranks_ - step) % ranks_;
    auto share = std::partition_point(shares.begin(), shares.end(), [&](const RingShare& other) {
      return other.step(ranks_) < of_keys;
    });
    for (; share != shares.end() && share->step(ranks_) == of_keys; ++share) {
      Attend(share->owner, ring.cost.Of(*share));
    }
  };
  send_queries(1);
  attend(0);
  for (int step = 1; step < ranks_; ++step) {
    for (int r = 0; r < ranks_; ++r) Advance(phase, r, arrived[r]);
    send_queries(step + 1);
    attend(step);
    send_partials(step);
  }
  for (int r = 0; r < ranks_; ++r) Advance(phase, r, returned[r]);
  if (ranks_ == 1) return;
  const auto rows = static_cast<double>(
      std::accumulate(ring.rows.begin(), ring.rows.end(), int64_t{0}) * (ranks_ - 1));
  Count("ring.queries", ranks_ - 1, rows * static_cast<double>(ring.token.query) / ranks_);
  Count("ring.partials", ranks_ - 1, rows * static_cast<double>(ring.token.partial) / ranks_);
}

void Simulator::Run(Phase phase, const GroupsOfKeys& groups) {
  SpendOnPlan(phase, groups.listed_keys);
  // Exchanges follow each other and do not wait for attention.
  std::vector<double> lane = now_;
  for (const GroupsOfKeys::Group& group : groups.groups) {
    for (double& time : lane) time += profile_.call_s;
    std::vector<double> done = lane;
    for (const Message& message : group.exchange.messages) {
      const double there = Transmit(message, std::max(lane[message.from], lane[message.to]));
      for (const int end : {message.from, message.to}) done[end] = std::max(done[end], there);
    }
    lane = done;
    for (int r = 0; r < ranks_; ++r) {
      Advance(phase, r, lane[r]);
      Attend(r, group.attend[r]);
    }
    Count(group.exchange.name, 1, static_cast<double>(group.exchange.TotalBytes()) / ranks_);
  }
}

}  // namespace longspan
