#ifndef LONGSPAN_RUNTIME_PREFIX_PLAN_H_
#define LONGSPAN_RUNTIME_PREFIX_PLAN_H_

#include <cstdint>
#include <set>
#include <vector>

#include "runtime/prefix_cache.h"
#include "runtime/prefix_manifest.h"

namespace longspan {

// How saved pages become those of this run, whose stripes may have another length and go round
// another number of ranks.
struct RestorePlan {
  struct Page {
    int64_t node = 0;    // in `cache`
    int64_t stripe = 0;  // of this run's layout
    int64_t path = 0;    // index in `paths`: the prompt that it is part of
  };
  PrefixCache cache;                        // none in use
  std::vector<std::vector<int64_t>> paths;  // saved pages of stripes 0, 1, ...
  std::vector<Page> pages;
};

// Leaves out the saved pages of `damaged`, what stands on them, and what `max_pages` of a rank do
// not hold: the least recently used. Ranks with the same arguments plan the same.
RestorePlan PlanRestore(const PrefixManifest& manifest, const std::set<int64_t>& damaged,
                        const PrefixCache::Shape& shape, int64_t max_pages);

}  // namespace longspan

#endif  // LONGSPAN_RUNTIME_PREFIX_PLAN_H_
