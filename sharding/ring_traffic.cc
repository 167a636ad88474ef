#include "sharding/ring_traffic.h"

#include <algorithm>

namespace longspan {
namespace {

// Shares of one reader, by round, that are yet to be added up.
struct RoundShare {
  size_t round = 0;
  RingShare share;
};

// Calls f(round, piece) for the parts of `runs`, ascending and apart, in each window.
template <typename F>
void ForEachPiece(absl::Span<const Range> windows, absl::Span<const Range> runs, F&& f) {
  size_t round = 0;
  for (const Range& run : runs) {
    while (round < windows.size() && windows[round].end <= run.begin) ++round;
    for (size_t r = round; r < windows.size() && windows[r].begin < run.end; ++r) {
      const Range piece = Intersect(run, windows[r]);
      if (!piece.empty()) f(r, piece);
    }
  }
}

// Adds up shares of the same round and owner.
std::vector<RoundShare> AddUp(std::vector<RoundShare> shares) {
  std::sort(shares.begin(), shares.end(), [](const RoundShare& a, const RoundShare& b) {
    return a.round != b.round ? a.round < b.round : a.share.owner < b.share.owner;
  });
  std::vector<RoundShare> sums;
  for (const RoundShare& next : shares) {
    if (sums.empty() || sums.back().round != next.round ||
        sums.back().share.owner != next.share.owner) {
      sums.push_back(next);
      continue;
    }
    RingShare& sum = sums.back().share;
    sum.tokens += next.share.tokens;
    sum.reads += next.share.reads;
    sum.pairs += next.share.pairs;
  }
  return sums;
}

// What `block` reads and sees of each owner, in pieces of one stripe, for that depends on where
// they are.
void AddReads(const SequenceLayout& layout, absl::Span<const Range> windows, const BlockKeys& block,
              std::vector<RoundShare>* shares) {
  const std::vector<Range> runs =
      RunsByReader(1, {{{.queries = block.queries, .far = block.far, .near = block.near}}})[0];
  ForEachPiece(windows, runs, [&](size_t round, Range piece) {
    for (Range part = {piece.begin, piece.begin}; part.begin < piece.end; part.begin = part.end) {
      part.end = std::min(piece.end, (layout.stripe(part.begin) + 1) * layout.stripe_tokens);
      shares->push_back({round,
                         {.reader = block.rank,
                          .owner = layout.owner(part.begin),
                          .reads = part.size(),
                          .pairs = PairsWith(block, part)}});
    }
  });
}

void SortBySteps(int num_ranks, RingTraffic* traffic) {
  std::sort(traffic->shares.begin(), traffic->shares.end(),
            [num_ranks](const RingShare& a, const RingShare& b) {
              const int step_a = a.step(num_ranks), step_b = b.step(num_ranks);
              return step_a != step_b ? step_a < step_b : a.reader < b.reader;
            });
}

}  // namespace

double PairsWith(const BlockKeys& block, Range keys) {
  const int64_t first = block.near.end - block.queries;  // the block's own begin
  const double before = static_cast<double>(Intersect(keys, {0, first}).size());
  const Range own = Intersect(keys, {first, block.near.end});
  double pairs = before * static_cast<double>(block.queries);
  if (own.empty()) return pairs;
  // The key at p is seen by the queries from p on: near.end - p of them.
  const double most = static_cast<double>(block.near.end - own.begin);
  const double least = static_cast<double>(block.near.end - own.end + 1);
  return pairs + static_cast<double>(own.size()) * (most + least) / 2;
}

std::vector<RingTraffic> TrafficOfRing(const SequenceLayout& layout,
                                       absl::Span<const BlockKeys> blocks, int64_t max_tokens,
                                       int64_t min_steps) {
  const std::vector<std::vector<Range>> readers = RunsByReader(layout.num_ranks, blocks);
  const std::vector<Range> windows = RingWindows(readers, max_tokens, min_steps);
  std::vector<std::vector<RoundShare>> shares(layout.num_ranks);  // [reader]
  for (int reader = 0; reader < layout.num_ranks; ++reader) {
    ForEachPiece(windows, readers[reader], [&](size_t round, Range piece) {
      ForEachOwner(layout, piece, [&](int owner, int64_t tokens) {
        shares[reader].push_back({round, {.reader = reader, .owner = owner, .tokens = tokens}});
      });
    });
  }
  for (const BlockKeys& block : blocks) AddReads(layout, windows, block, &shares[block.rank]);
  std::vector<RingTraffic> rounds(windows.size());
  for (size_t r = 0; r < windows.size(); ++r) rounds[r].window = windows[r];
  for (std::vector<RoundShare>& of_reader : shares) {
    for (const RoundShare& sum : AddUp(std::move(of_reader))) {
      rounds[sum.round].shares.push_back(sum.share);
    }
  }
  for (RingTraffic& round : rounds) SortBySteps(layout.num_ranks, &round);
  return rounds;
}

RingTraffic TrafficOfGroup(const SequenceLayout& layout, absl::Span<const BlockKeys> blocks,
                           std::vector<std::vector<Range>>* brought) {
  const auto readers = NotBrought(RunsByReader(layout.num_ranks, blocks), brought);
  RingTraffic traffic;
  for (int reader = 0; reader < layout.num_ranks; ++reader) {
    std::vector<RoundShare> shares;
    for (const Range& run : readers[reader]) {
      traffic.window.end = std::max(traffic.window.end, run.end);
      ForEachOwner(layout, run, [&](int owner, int64_t tokens) {
        shares.push_back({0, {.reader = reader, .owner = owner, .tokens = tokens}});
      });
    }
    for (const RoundShare& sum : AddUp(std::move(shares))) traffic.shares.push_back(sum.share);
  }
  SortBySteps(layout.num_ranks, &traffic);
  return traffic;
}

}  // namespace longspan
