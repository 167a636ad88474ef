#ifndef LONGSPAN_SHARDING_SEQUENCE_LAYOUT_H_
#define LONGSPAN_SHARDING_SEQUENCE_LAYOUT_H_

#include <algorithm>
#include <cstdint>
#include <vector>

namespace longspan {

// Half-open range of token positions.
struct Range {
  int64_t begin = 0;
  int64_t end = 0;

  int64_t size() const { return std::max<int64_t>(0, end - begin); }
  bool empty() const { return end <= begin; }
  bool contains(int64_t position) const { return begin <= position && position < end; }
  friend bool operator==(const Range&, const Range&) = default;
};

inline Range Intersect(Range a, Range b) {
  return {std::max(a.begin, b.begin), std::min(a.end, b.end)};
}

// Which rank keeps which positions: stripes of `stripe_tokens` consecutive positions go round the
// ranks, so that every prefill chunk and every part of a long context is spread evenly.
struct SequenceLayout {
  int64_t stripe_tokens = 1;
  int num_ranks = 1;

  int64_t stripe(int64_t position) const { return position / stripe_tokens; }
  int owner(int64_t position) const { return static_cast<int>(stripe(position) % num_ranks); }
  // Index of a stripe among those of its owner.
  int64_t page(int64_t position) const { return stripe(position) / num_ranks; }
  Range StripeOfPage(int rank, int64_t page) const {
    const int64_t begin = (page * num_ranks + rank) * stripe_tokens;
    return {begin, begin + stripe_tokens};
  }
  // Number of pages `rank` needs for positions [0, tokens).
  int64_t NumPages(int rank, int64_t tokens) const;
  // Number of positions of `range` that `rank` owns.
  int64_t CountOwned(int rank, Range range) const;
  // The runs of consecutive positions of `range` that `rank` owns, one a stripe, ascending.
  std::vector<Range> OwnedRuns(int rank, Range range) const;
};

// Calls f(rank, tokens) for each rank that owns positions of `range`, once, in any order. Takes no
// longer for more ranks than the range has stripes.
template <typename F>
void ForEachOwner(const SequenceLayout& layout, Range range, F&& f) {
  if (range.empty()) return;
  const int64_t first = layout.stripe(range.begin);
  const int64_t stripes = layout.stripe(range.end - 1) - first + 1;
  for (int64_t s = first; s < first + std::min<int64_t>(stripes, layout.num_ranks); ++s) {
    const int rank = static_cast<int>(s % layout.num_ranks);
    f(rank, layout.CountOwned(rank, range));
  }
}

}  // namespace longspan

#endif  // LONGSPAN_SHARDING_SEQUENCE_LAYOUT_H_
