#include "runtime/prefix_plan.h"

#include <algorithm>

namespace longspan {
namespace {

// From a page that begins prompts to every page that nothing stands on, least recently used first.
std::vector<std::vector<int64_t>> Paths(const PrefixManifest& manifest,
                                        const std::set<int64_t>& damaged) {
  const auto count = static_cast<int64_t>(manifest.pages.size());
  std::vector<bool> whole(count), is_leaf(count);
  for (int64_t i = 0; i < count; ++i) {
    const int64_t parent = manifest.pages[i].parent;
    whole[i] = is_leaf[i] = !damaged.contains(i) && (parent < 0 || whole[parent]);
    if (whole[i] && parent >= 0) is_leaf[parent] = false;
  }
  std::vector<int64_t> leaves;
  for (int64_t i = 0; i < count; ++i) {
    if (is_leaf[i]) leaves.push_back(i);
  }
  std::stable_sort(leaves.begin(), leaves.end(), [&](int64_t a, int64_t b) {
    return manifest.pages[a].last_used < manifest.pages[b].last_used;
  });
  std::vector<std::vector<int64_t>> paths;
  for (const int64_t leaf : leaves) {
    std::vector<int64_t>& path = paths.emplace_back();
    for (int64_t i = leaf; i >= 0; i = manifest.pages[i].parent) path.push_back(i);
    std::reverse(path.begin(), path.end());
  }
  return paths;
}

std::vector<int32_t> TokensOf(const PrefixManifest& manifest, const std::vector<int64_t>& path) {
  std::vector<int32_t> tokens;
  for (const int64_t i : path) {
    const std::vector<int32_t>& page = manifest.pages[i].tokens;
    const int64_t own = std::min<int64_t>(page.size(), manifest.stripe_tokens);
    tokens.insert(tokens.end(), page.begin(), page.begin() + own);
  }
  return tokens;
}

}  // namespace

RestorePlan PlanRestore(const PrefixManifest& manifest, const std::set<int64_t>& damaged,
                        const PrefixCache::Shape& shape, int64_t max_pages) {
  RestorePlan plan{PrefixCache(shape), Paths(manifest, damaged), {}};
  for (size_t p = 0; p < plan.paths.size(); ++p) {
    const std::vector<int32_t> tokens = TokensOf(manifest, plan.paths[p]);
    for (const auto& [stripe, node] : plan.cache.Publish(tokens, /*shared=*/{})) {
      plan.pages.push_back({node, stripe, static_cast<int64_t>(p)});
      plan.cache.Release({node});
    }
  }
  std::vector<int64_t> too_many;
  for (int r = 0; r < shape.layout.num_ranks; ++r) {
    too_many.push_back(plan.cache.num_pages(r) - max_pages);
  }
  std::vector<PrefixCache::Evicted> evicted;
  plan.cache.Evict(too_many, /*last=*/{}, &evicted);
  std::set<int64_t> gone;
  for (const auto& [node, rank] : evicted) gone.insert(node);
  std::erase_if(plan.pages,
                [&](const RestorePlan::Page& page) { return gone.contains(page.node); });
  return plan;
}

}  // namespace longspan
