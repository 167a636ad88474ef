#include "sharding/ring_schedule.h"

#include <algorithm>

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

}  // namespace

std::vector<std::vector<Range>> RunsByReader(int num_ranks, absl::Span<const BlockKeys> blocks) {
  std::vector<std::vector<Range>> runs(num_ranks);
  for (const BlockKeys& block : blocks) AppendRuns(block, &runs[block.rank]);
  for (auto& of_rank : runs) of_rank = Union(std::move(of_rank));
  return runs;
}

std::vector<RingRound> PlanRing(const SequenceLayout& layout, int rank,
                                absl::Span<const BlockKeys> blocks, int64_t max_tokens) {
  const std::vector<std::vector<Range>> readers = RunsByReader(layout.num_ranks, blocks);
  std::vector<Range> all;
  for (const auto& runs : readers) all.insert(all.end(), runs.begin(), runs.end());
  std::vector<RingRound> rounds;
  for (const Range& window : Windows(Union(std::move(all)), max_tokens)) {
    RingRound& round = rounds.emplace_back();
    round.window = window;
    for (int other = 0; other < layout.num_ranks; ++other) {
      round.sends.push_back(Owned(layout, rank, readers[other], window));
      round.receives.push_back(Owned(layout, other, readers[rank], window));
    }
  }
  return rounds;
}

int64_t CountTokens(absl::Span<const Range> runs) {
  int64_t count = 0;
  for (const Range& run : runs) count += run.size();
  return count;
}

}  // namespace longspan
