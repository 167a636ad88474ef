#include "sharding/sequence_layout.h"

namespace longspan {

int64_t SequenceLayout::NumPages(int rank, int64_t tokens) const {
  const int64_t stripes = (tokens + stripe_tokens - 1) / stripe_tokens;
  return stripes / num_ranks + (rank < stripes % num_ranks ? 1 : 0);
}

int64_t SequenceLayout::CountOwned(int rank, Range range) const {
  if (range.empty()) return 0;
  // Owned positions below `tokens`: whole rounds of stripes, then what the last round holds.
  const auto below = [&](int64_t tokens) {
    const int64_t round = stripe_tokens * num_ranks;
    const int64_t rest = tokens % round - rank * stripe_tokens;
    return tokens / round * stripe_tokens + std::clamp<int64_t>(rest, 0, stripe_tokens);
  };
  return below(range.end) - below(range.begin);
}

std::vector<Range> SequenceLayout::OwnedRuns(int rank, Range range) const {
  std::vector<Range> runs;
  if (range.empty()) return runs;
  int64_t first = stripe(range.begin);
  first += (rank - first % num_ranks + num_ranks) % num_ranks;
  for (int64_t s = first; s * stripe_tokens < range.end; s += num_ranks) {
    const Range run = Intersect({s * stripe_tokens, (s + 1) * stripe_tokens}, range);
    if (!run.empty()) runs.push_back(run);
  }
  return runs;
}

}  // namespace longspan
