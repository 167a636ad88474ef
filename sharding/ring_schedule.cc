#include "sharding/ring_schedule.h"

#include <algorithm>

namespace longspan {
namespace {

// Runs that stand behind those before them, joined where they touch or overlap.
void Append(Range run, std::vector<Range>* runs) {
  if (run.empty()) return;
  if (!runs->empty() && run.begin <= runs->back().end) {
    runs->back().end = std::max(runs->back().end, run.end);
  } else {
    runs->push_back(run);
  }
}

// Of lists that are ascending and apart, as the result is.
std::vector<Range> Union(absl::Span<const Range> a, absl::Span<const Range> b) {
  std::vector<Range> joined;
  joined.reserve(a.size() + b.size());
  auto next_a = a.begin(), next_b = b.begin();
  while (next_a != a.end() && next_b != b.end()) {
    Append(next_a->begin < next_b->begin ? *next_a++ : *next_b++, &joined);
  }
  for (; next_a != a.end(); ++next_a) Append(*next_a, &joined);
  for (; next_b != b.end(); ++next_b) Append(*next_b, &joined);
  return joined;
}

// By halves: every rank plans for all ranks before it can send, so that this must be quick.
std::vector<Range> UnionOfAll(absl::Span<const std::vector<Range>> lists) {
  if (lists.empty()) return {};
  if (lists.size() == 1) return lists[0];
  const size_t half = lists.size() / 2;
  return Union(UnionOfAll(lists.first(half)), UnionOfAll(lists.subspan(half)));
}

// What of `runs` is not in `others`; both are ascending and apart.
std::vector<Range> Without(absl::Span<const Range> runs, absl::Span<const Range> others) {
  std::vector<Range> left;
  auto next = others.begin();
  for (Range run : runs) {
    while (next != others.end() && next->end <= run.begin) ++next;
    for (auto other = next; other != others.end() && other->begin < run.end; ++other) {
      if (run.begin < other->begin) left.push_back({run.begin, other->begin});
      run.begin = other->end;
    }
    if (!run.empty()) left.push_back(run);
  }
  return left;
}

std::vector<Range> RunsOf(const BlockKeys& block) {
  std::vector<Range> runs;
  runs.reserve(block.far.size() + 1);
  for (const int64_t position : block.far) Append({position, position + 1}, &runs);
  Append(block.near, &runs);
  return runs;
}

// Cuts the positions of `runs` into windows of at most max_tokens of them.
std::vector<Range> Windows(absl::Span<const Range> runs, int64_t max_tokens) {
  std::vector<Range> windows;
  int64_t begin = 0;
  int64_t room = max_tokens;
  for (Range run : runs) {
    while (run.size() > room) {
      run.begin += room;
      windows.push_back({begin, run.begin});
      begin = run.begin;
      room = max_tokens;
    }
    room -= run.size();
  }
  if (!runs.empty() && begin < runs.back().end) windows.push_back({begin, runs.back().end});
  return windows;
}

// Calls f(owner, piece) for the parts of `runs` inside `window`, one a stripe.
template <typename F>
void ForEachStripe(const SequenceLayout& layout, absl::Span<const Range> runs, Range window,
                   F&& f) {
  for (const Range& run : runs) {
    Range piece = Intersect(run, window);
    for (const int64_t end = piece.end; piece.begin < end; piece.begin = piece.end) {
      const int64_t stripe = layout.stripe(piece.begin);
      piece.end = std::min(end, (stripe + 1) * layout.stripe_tokens);
      f(static_cast<int>(stripe % layout.num_ranks), piece);
    }
  }
}

// What `rank` sends and receives inside `window` so that each reader has its runs.
RingRound PlanRound(const SequenceLayout& layout, int rank,
                    absl::Span<const std::vector<Range>> readers, Range window) {
  RingRound round;
  round.window = window;
  round.sends.resize(layout.num_ranks);
  round.receives.resize(layout.num_ranks);
  for (int reader = 0; reader < layout.num_ranks; ++reader) {
    ForEachStripe(layout, readers[reader], window, [&](int owner, Range piece) {
      if (owner == rank) round.sends[reader].push_back(piece);
      if (reader == rank) round.receives[owner].push_back(piece);
    });
  }
  return round;
}

}  // namespace

std::vector<std::vector<Range>> RunsByReader(int num_ranks, absl::Span<const BlockKeys> blocks) {
  std::vector<std::vector<std::vector<Range>>> lists(num_ranks);  // [reader][block]
  for (const BlockKeys& block : blocks) lists[block.rank].push_back(RunsOf(block));
  std::vector<std::vector<Range>> runs;
  for (const auto& of_reader : lists) runs.push_back(UnionOfAll(of_reader));
  return runs;
}

std::vector<Range> RingWindows(absl::Span<const std::vector<Range>> readers, int64_t max_tokens,
                               int64_t min_steps) {
  const std::vector<Range> runs = UnionOfAll(readers);
  const auto ranks = static_cast<int64_t>(readers.size());
  const int64_t rounds = ranks == 1 ? 1 : (min_steps + ranks - 1) / ranks;
  const int64_t tokens = (CountTokens(runs) + rounds - 1) / rounds;
  return Windows(runs, std::min(max_tokens, std::max(kMinRoundTokens, tokens)));
}

std::vector<RingRound> PlanRing(const SequenceLayout& layout, int rank,
                                absl::Span<const BlockKeys> blocks, int64_t max_tokens,
                                int64_t min_steps) {
  const std::vector<std::vector<Range>> readers = RunsByReader(layout.num_ranks, blocks);
  std::vector<RingRound> rounds;
  for (const Range& window : RingWindows(readers, max_tokens, min_steps)) {
    rounds.push_back(PlanRound(layout, rank, readers, window));
  }
  return rounds;
}

std::vector<std::vector<Range>> NotBrought(std::vector<std::vector<Range>> readers,
                                           std::vector<std::vector<Range>>* brought) {
  brought->resize(readers.size());
  for (size_t reader = 0; reader < readers.size(); ++reader) {
    std::vector<Range>& had = (*brought)[reader];
    readers[reader] = Without(readers[reader], had);
    had = Union(had, readers[reader]);
  }
  return readers;
}

RingRound PlanGroup(const SequenceLayout& layout, int rank, absl::Span<const BlockKeys> blocks,
                    std::vector<std::vector<Range>>* brought) {
  const auto readers = NotBrought(RunsByReader(layout.num_ranks, blocks), brought);
  Range window;
  for (const std::vector<Range>& had : *brought) {
    if (!had.empty()) window.end = std::max(window.end, had.back().end);
  }
  return PlanRound(layout, rank, readers, window);
}

int64_t CountTokens(absl::Span<const Range> runs) {
  int64_t count = 0;
  for (const Range& run : runs) count += run.size();
  return count;
}

}  // namespace longspan
