#ifndef LONGSPAN_RUNTIME_PREFIX_CACHE_H_
#define LONGSPAN_RUNTIME_PREFIX_CACHE_H_

#include <cstdint>
#include <map>
#include <vector>

#include "absl/types/span.h"
#include "sharding/sequence_layout.h"

namespace longspan {

// Which cached pages hold the beginnings of prompts; rank 0's view of what all ranks keep. A node
// is a page, its parent the page of the stripe before. Since a page also holds score keys of `halo`
// tokens behind its stripe, it serves a prompt as it is only if these are the same too; of two
// pages that differ only there both are kept. Tokens are compared themselves, so that nothing ever
// passes for what it is not.
class PrefixCache {
 public:
  struct Shape {
    SequenceLayout layout;
    int64_t halo = 0;
    int64_t block = 1;  // what does not fill a selection block depends on what ended the prompt
  };
  explicit PrefixCache(const Shape& shape);

  // What a prompt can take from the cache: nodes of stripes 0, 1, ... from the root on.
  struct Hit {
    int64_t tokens = 0;           // whole blocks, less than the prompt
    std::vector<int64_t> shared;  // to be read only
    std::vector<int64_t> copied;  // behind them: the sequence will write to these stripes or halos
  };
  Hit Find(absl::Span<const int32_t> prompt) const;

  struct Published {
    int64_t stripe;
    int64_t node;
  };
  // Makes nodes of the whole blocks of `tokens`, of which a sequence has the pages, but for those
  // that there are; `shared` are the nodes that it took from here. The new ones are in use.
  std::vector<Published> Publish(absl::Span<const int32_t> tokens,
                                 absl::Span<const int64_t> shared);

  // Nodes in use stay. What is taken into use is as if used last.
  void Use(absl::Span<const int64_t> nodes);
  void Release(absl::Span<const int64_t> nodes);

  // Removes nodes that are not in use, least recently used first and pages before those that they
  // stand on, until that many pages of each rank are free; `last` only when nothing else is left.
  // Says which; false, and nothing is removed, if that is not enough.
  struct Evicted {
    int64_t node;
    int rank;
  };
  bool Evict(std::vector<int64_t> pages, absl::Span<const int64_t> last,
             std::vector<Evicted>* evicted);

  // All of them, pages before those that stand on them.
  struct Page {
    int64_t node;
    int64_t parent;  // a node; 0: the page begins a prompt
    int64_t stripe;
    int64_t last_used;
    absl::Span<const int32_t> tokens;  // of the stripe, then of the halo behind it, while it lives
  };
  std::vector<Page> pages() const;

  int rank(int64_t node) const {
    return static_cast<int>(nodes_.at(node).stripe % shape_.layout.num_ranks);
  }
  int64_t num_pages(int rank) const { return pages_[rank]; }
  // Of them: those that Evict could not remove, since they, or pages that stand on them, are in
  // use.
  int64_t num_held_pages(int rank) const { return held_pages_[rank]; }

 private:
  struct Node {
    int64_t parent = 0;
    int64_t stripe = 0;
    std::vector<int32_t> tokens;  // of the stripe, then of the halo behind it, as far as they go
    std::vector<int64_t> children;
    int64_t in_use = 0;     // by that many sequences, and children that are in use
    int64_t last_used = 0;  // a time that goes on with each use
  };

  // The stripe's tokens and those of the halo behind it.
  absl::Span<const int32_t> Piece(absl::Span<const int32_t> tokens, int64_t stripe) const;
  // The child with the longest common beginning with `piece`, and its length; 0: there is none.
  struct Match {
    int64_t node = 0;
    int64_t tokens = 0;
  };
  Match LongestMatch(int64_t parent, absl::Span<const int32_t> piece) const;
  void Hold(int64_t node);
  void LetGo(int64_t node);
  void Remove(int64_t node);

  Shape shape_;
  std::map<int64_t, Node> nodes_;    // 0: the root, which is no page
  std::vector<int64_t> pages_;       // [ranks] nodes
  std::vector<int64_t> held_pages_;  // [ranks] of them: in use
  int64_t next_node_ = 1;
  int64_t now_ = 0;
};

}  // namespace longspan

#endif  // LONGSPAN_RUNTIME_PREFIX_CACHE_H_
