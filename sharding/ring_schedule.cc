#include "sharding/ring_schedule.h"

#include <algorithm>
#include <utility>

namespace longspan {
namespace {

// Sorts runs and joins those that touch or overlap.
std::vector<Range> Union(std::vector<Range> runs) {
  std::sort(runs.begin(), runs.end(), [](Range a, Range b) { return a.begin < b.begin; });
  std::vector<Range> joined;
  for (const Range& run : runs) {
    if (run.empty()) continue;
    if (!joined.empty() && run.begin <= joined.back().end) {
      joined.back().end = std::max(joined.back().end, run.end);
    } else {
      joined.push_back(run);
    }
  }
  return joined;
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

void AppendRuns(const BlockKeys& block, std::vector<Range>* runs) {
  for (const int64_t position : block.far) {
    if (!runs->empty() && runs->back().end == position) {
      ++runs->back().end;
    } else {
      runs->push_back({position, position + 1});
    }
  }
  runs->push_back(block.near);
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

// Appends the parts of `runs` inside `window` that `owner` keeps.
std::vector<Range> Owned(const SequenceLayout& layout, int owner, absl::Span<const Range> runs,
                         Range window) {
  std::vector<Range> owned;
  for (const Range& run : runs) {
    for (const Range& piece : layout.OwnedRuns(owner, Intersect(run, window))) {
      owned.push_back(piece);
    }
  }
  return owned;
}

// What `rank` sends and receives inside `window` so that each reader has its runs.
RingRound PlanRound(const SequenceLayout& layout, int rank,
                    absl::Span<const std::vector<Range>> readers, Range window) {
  RingRound round;
  round.window = window;
  for (int other = 0; other < layout.num_ranks; ++other) {
    round.sends.push_back(Owned(layout, rank, readers[other], window));
    round.receives.push_back(Owned(layout, other, readers[rank], window));
  }
  return round;
}

}  // namespace

std::vector<std::vector<Range>> RunsByReader(int num_ranks, absl::Span<const BlockKeys> blocks) {
  std::vector<std::vector<Range>> runs(num_ranks);
  for (const BlockKeys& block : blocks) AppendRuns(block, &runs[block.rank]);
  for (auto& of_rank : runs) of_rank = Union(std::move(of_rank));
  return runs;
}

std::vector<Range> RingWindows(absl::Span<const std::vector<Range>> readers, int64_t max_tokens) {
  std::vector<Range> all;
  for (const auto& runs : readers) all.insert(all.end(), runs.begin(), runs.end());
  return Windows(Union(std::move(all)), max_tokens);
}

std::vector<RingRound> PlanRing(const SequenceLayout& layout, int rank,
                                absl::Span<const BlockKeys> blocks, int64_t max_tokens) {
  const std::vector<std::vector<Range>> readers = RunsByReader(layout.num_ranks, blocks);
  std::vector<RingRound> rounds;
  for (const Range& window : RingWindows(readers, max_tokens)) {
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
    had.insert(had.end(), readers[reader].begin(), readers[reader].end());
    had = Union(std::move(had));
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
