#include "runtime/prefix_cache.h"

#include <algorithm>
#include <functional>
#include <queue>
#include <tuple>
#include <utility>

#include "kernels/base/check.h"

namespace longspan {

PrefixCache::PrefixCache(const Shape& shape)
    : shape_(shape), pages_(shape.layout.num_ranks, 0), held_pages_(shape.layout.num_ranks, 0) {
  nodes_[0].stripe = -1;
}

absl::Span<const int32_t> PrefixCache::Piece(absl::Span<const int32_t> tokens,
                                             int64_t stripe) const {
  return tokens.subspan(stripe * shape_.layout.stripe_tokens,
                        shape_.layout.stripe_tokens + shape_.halo);
}

PrefixCache::Match PrefixCache::LongestMatch(int64_t parent,
                                             absl::Span<const int32_t> piece) const {
  Match longest;
  for (const int64_t child : nodes_.at(parent).children) {
    const std::vector<int32_t>& tokens = nodes_.at(child).tokens;
    const auto differs =
        std::mismatch(tokens.begin(), tokens.end(), piece.begin(), piece.end()).first;
    const int64_t common = differs - tokens.begin();
    if (common > longest.tokens) longest = {child, common};
  }
  return longest;
}

PrefixCache::Hit PrefixCache::Find(absl::Span<const int32_t> prompt) const {
  const auto size = static_cast<int64_t>(prompt.size());
  const int64_t stripe_tokens = shape_.layout.stripe_tokens;
  std::vector<int64_t> path;
  int64_t common = 0;
  for (Match match; common == static_cast<int64_t>(path.size()) * stripe_tokens && common < size;) {
    match = LongestMatch(match.node, Piece(prompt, static_cast<int64_t>(path.size())));
    if (match.tokens == 0) break;
    path.push_back(match.node);
    common += std::min(match.tokens, stripe_tokens);
  }
  Hit hit;
  hit.tokens = std::min(common, size - 1) / shape_.block * shape_.block;
  for (size_t s = 0; s < path.size(); ++s) {
    const int64_t begin = static_cast<int64_t>(s) * stripe_tokens;
    if (begin >= hit.tokens) break;
    const bool whole = begin + stripe_tokens + shape_.halo <= hit.tokens;
    (whole ? hit.shared : hit.copied).push_back(path[s]);
  }
  return hit;
}

std::vector<PrefixCache::Published> PrefixCache::Publish(absl::Span<const int32_t> tokens,
                                                         absl::Span<const int64_t> shared) {
  const auto whole = static_cast<int64_t>(tokens.size()) / shape_.block * shape_.block;
  tokens = tokens.first(whole);
  ++now_;
  std::vector<Published> published;
  int64_t parent = shared.empty() ? 0 : shared.back();
  for (auto s = static_cast<int64_t>(shared.size()); s * shape_.layout.stripe_tokens < whole; ++s) {
    const absl::Span<const int32_t> piece = Piece(tokens, s);
    const Match match = LongestMatch(parent, piece);
    if (match.tokens == static_cast<int64_t>(piece.size())) {
      parent = match.node;
      nodes_.at(parent).last_used = now_;
      continue;
    }
    const int64_t id = next_node_++;
    nodes_.at(parent).children.push_back(id);
    nodes_[id] = {parent, s, {piece.begin(), piece.end()}, {}, /*in_use=*/0, now_};
    ++pages_[rank(id)];
    Hold(id);
    published.push_back({s, id});
    parent = id;
  }
  return published;
}

void PrefixCache::Use(absl::Span<const int64_t> nodes) {
  ++now_;
  for (const int64_t id : nodes) {
    Hold(id);
    nodes_.at(id).last_used = now_;
  }
}

void PrefixCache::Release(absl::Span<const int64_t> nodes) {
  ++now_;
  for (const int64_t id : nodes) {
    LetGo(id);
    nodes_.at(id).last_used = now_;
  }
}

// A node that comes into use keeps its parent.
void PrefixCache::Hold(int64_t id) {
  while (id != 0 && nodes_.at(id).in_use++ == 0) {
    ++held_pages_[rank(id)];
    id = nodes_.at(id).parent;
  }
}

void PrefixCache::LetGo(int64_t id) {
  while (id != 0) {
    Node& node = nodes_.at(id);
    LONGSPAN_CHECK(node.in_use > 0);
    if (--node.in_use > 0) return;
    --held_pages_[rank(id)];
    id = node.parent;
  }
}

bool PrefixCache::Evict(std::vector<int64_t> pages, absl::Span<const int64_t> last,
                        std::vector<Evicted>* evicted) {
  const auto missing = [&] {
    return std::any_of(pages.begin(), pages.end(), [](int64_t count) { return count > 0; });
  };
  evicted->clear();
  if (!missing()) return true;
  // The leaves that may go, and how many children keep the others.
  using Leaf = std::tuple<bool, int64_t, int64_t>;  // is of `last`, last used, node
  std::priority_queue<Leaf, std::vector<Leaf>, std::greater<Leaf>> leaves;
  std::map<int64_t, size_t> children;
  const auto add = [&](int64_t id) {
    const Node& node = nodes_.at(id);
    if (id == 0 || node.in_use > 0) return;
    leaves.emplace(std::find(last.begin(), last.end(), id) != last.end(), node.last_used, id);
  };
  for (const auto& [id, node] : nodes_) {
    children[id] = node.children.size();
    if (node.children.empty()) add(id);
  }
  while (missing()) {
    if (leaves.empty()) return false;
    const int64_t id = std::get<2>(leaves.top());
    leaves.pop();
    evicted->push_back({id, rank(id)});
    --pages[rank(id)];
    const int64_t parent = nodes_.at(id).parent;
    if (--children.at(parent) == 0) add(parent);
  }
  for (const Evicted& node : *evicted) Remove(node.node);
  return true;
}

std::vector<PrefixCache::Page> PrefixCache::pages() const {
  std::vector<Page> pages;  // nodes are numbered in the order in which they came
  for (const auto& [id, node] : nodes_) {
    if (id != 0) pages.push_back({id, node.parent, node.stripe, node.last_used, node.tokens});
  }
  return pages;
}

void PrefixCache::Remove(int64_t id) {
  std::vector<int64_t>& siblings = nodes_.at(nodes_.at(id).parent).children;
  siblings.erase(std::find(siblings.begin(), siblings.end(), id));
  --pages_[rank(id)];
  nodes_.erase(id);
}

}  // namespace longspan
