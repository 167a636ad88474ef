#include "sharding/cost_model.h"

#include <algorithm>
#include <bit>
#include <cmath>
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
      ForEachOwner(layout, run, [&](int owner, int64_t tokens) {
        traffic.Add(owner, reader, tokens * bytes.key_value);
      });
    }
  }
  return traffic;
}

// The ranks of a job as two tiers.
struct Tiers {
  double hosts = 1, per_host = 1;
};

Tiers TiersOf(const HardwareProfile& profile, int ranks) {
  const double per_host = static_cast<double>(std::min<int64_t>(ranks, profile.ranks_per_host));
  return {std::ceil(ranks / per_host), per_host};
}

// Messages one after the other until n ranks have heard of each other.
double Doublings(double n) { return n <= 1 ? 0 : std::bit_width(static_cast<uint64_t>(n) - 1); }

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

double KernelSeconds(const HardwareProfile& profile, int ranks, Kernel kernel, const Work& work) {
  if (work.bytes <= 0 && work.flops <= 0) return 0;
  const KernelCost& cost = profile.kernel(kernel);
  const double floor = std::max(work.bytes / profile.bytes_per_s, work.flops / profile.flops_per_s);
  double turns = 1;
  if (profile.processors_per_host > 0) {
    turns = std::max(
        1.0, TiersOf(profile, ranks).per_host / static_cast<double>(profile.processors_per_host));
  }
  return turns * (cost.overhead_s + floor / cost.efficiency);
}

LinkUse LinkUse::operator+(const LinkUse& other) const {
  return {calls + other.calls, steps_within + other.steps_within, bytes_within + other.bytes_within,
          steps_between + other.steps_between, bytes_between + other.bytes_between};
}

double LinkSeconds(const HardwareProfile& profile, const LinkUse& use) {
  return use.calls * profile.call_s + use.steps_within * profile.within_host.latency_s +
         use.bytes_within / profile.within_host.bytes_per_s +
         use.steps_between * profile.between_hosts.latency_s +
         use.bytes_between / profile.between_hosts.bytes_per_s;
}

LinkUse AllGatherUse(const HardwareProfile& profile, int ranks, double total_bytes) {
  if (ranks == 1) return {};
  const auto [hosts, per_host] = TiersOf(profile, ranks);
  const double from_others = total_bytes * (hosts - 1) / hosts;
  return {.calls = 1,
          .steps_within = Doublings(per_host),
          .bytes_within = total_bytes * (per_host - 1) / per_host,
          .steps_between = Doublings(hosts),
          .bytes_between = from_others / per_host};
}

LinkUse AllReduceUse(const HardwareProfile& profile, int ranks, double bytes) {
  if (ranks == 1) return {};
  const auto [hosts, per_host] = TiersOf(profile, ranks);
  LinkUse use = {.calls = 1,
                 .steps_within = Doublings(per_host),
                 .bytes_within = Doublings(per_host) * bytes,
                 .steps_between = Doublings(hosts),
                 .bytes_between = Doublings(hosts) * bytes};
  if (bytes <= kHalvingBytes) return use;
  use.steps_within *= 2;
  use.steps_between *= 2;
  use.bytes_within = 2 * bytes * (per_host - 1) / per_host;
  use.bytes_between = 2 * bytes / per_host * (hosts - 1) / hosts;
  return use;
}

LinkUse BroadcastUse(const HardwareProfile& profile, int ranks, double bytes) {
  if (ranks == 1) return {};
  const auto [hosts, per_host] = TiersOf(profile, ranks);
  return {.calls = 1,
          .steps_within = Doublings(per_host),
          .bytes_within = Doublings(per_host) * bytes,
          .steps_between = Doublings(hosts),
          .bytes_between = Doublings(hosts) * bytes};
}

LinkUse MessageUse(const HardwareProfile& profile, int from, int to, double bytes) {
  if (from == to) return {};
  if (profile.host(from) == profile.host(to)) {
    return {.calls = 0, .steps_within = 1, .bytes_within = bytes};
  }
  return {.calls = 0, .steps_between = 1, .bytes_between = bytes};
}

}  // namespace longspan
