#include "runtime/sequence_caches.h"

#include <utility>

#include "kernels/base/status_macros.h"

namespace longspan {

absl::Status SequenceCaches::Update(const StepPlan& plan) {
  for (const auto& [sequence, stripe, node] : plan.publishes) {
    if (!IsMine(stripe)) continue;
    cached_[node] = sequences_.at(sequence).cache->pages()[stripe / layout_.num_ranks];
  }
  for (const int64_t sequence : plan.closes) sequences_.erase(sequence);
  for (const int64_t node : plan.evicts) cached_.erase(node);
  absl::Status opened;
  for (const StepPlan::Open& open : plan.opens) opened.Update(Open(open));
  return opened;
}

absl::Status SequenceCaches::Open(const StepPlan::Open& open) {
  Sequence& sequence = sequences_[open.sequence];
  sequence.capacity = open.capacity;
  sequence.cached_tokens = open.cached_tokens;
  sequence.cache = std::make_unique<KvShard>(pool_, layout_, rank_);
  int64_t stripe = 0;
  for (const int64_t node : open.shares) {
    if (IsMine(stripe++)) sequence.cache->Share(cached_.at(node));
  }
  for (const auto& [node, take] : open.copies) {
    if (!IsMine(stripe++)) continue;
    if (take) {
      sequence.cache->Share(std::move(cached_.extract(node).mapped()));
    } else {
      LONGSPAN_RETURN_IF_ERROR(sequence.cache->Copy(*cached_.at(node)));
    }
  }
  return sequence.cache->Reserve(open.capacity);
}

}  // namespace longspan
