#ifndef LONGSPAN_RUNTIME_SEQUENCE_CACHES_H_
#define LONGSPAN_RUNTIME_SEQUENCE_CACHES_H_

#include <cstdint>
#include <map>
#include <memory>
#include <utility>

#include "absl/status/status.h"
#include "runtime/kv_shard.h"
#include "runtime/scheduler.h"
#include "sharding/sequence_layout.h"

namespace longspan {

// A rank's caches of the running sequences, and its pages of the prefix cache.
class SequenceCaches {
 public:
  struct Sequence {
    std::unique_ptr<KvShard> cache;
    int64_t capacity = 0;
    int64_t cached_tokens = 0;  // that it began with
  };

  // `cached`: this rank's pages of a prefix cache that is there already, by their nodes.
  SequenceCaches(PagePool* pool, const SequenceLayout& layout, int rank,
                 std::map<int64_t, PageRef> cached = {})
      : pool_(pool), layout_(layout), rank_(rank), cached_(std::move(cached)) {}

  // What the plan says of pages. An error, of opens only, is this rank's.
  absl::Status Update(const StepPlan& plan);
  const Sequence& at(int64_t sequence) const { return sequences_.at(sequence); }
  const std::map<int64_t, PageRef>& cached() const { return cached_; }

 private:
  bool IsMine(int64_t stripe) const { return stripe % layout_.num_ranks == rank_; }
  absl::Status Open(const StepPlan::Open& open);

  PagePool* pool_;
  SequenceLayout layout_;
  int rank_;
  std::map<int64_t, Sequence> sequences_;
  std::map<int64_t, PageRef> cached_;
};

}  // namespace longspan

#endif  // LONGSPAN_RUNTIME_SEQUENCE_CACHES_H_
