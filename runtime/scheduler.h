#ifndef LONGSPAN_RUNTIME_SCHEDULER_H_
#define LONGSPAN_RUNTIME_SCHEDULER_H_

#include <cstdint>
#include <deque>
#include <limits>
#include <optional>
#include <vector>

#include "absl/types/span.h"
#include "runtime/prefix_cache.h"
#include "sharding/sequence_layout.h"

namespace longspan {

// What all ranks do in one step. Rank 0 plans it, the others receive it. Pages are named by their
// nodes in rank 0's prefix cache, and are the matter of the rank that their stripe belongs to.
struct StepPlan {
  // A sequence's page becomes a cached one, too.
  struct Publish {
    int64_t sequence;
    int64_t stripe;
    int64_t node;
  };
  struct Open {
    struct Copy {
      int64_t node;
      bool take;  // the sequence gets the page itself, which is cached no more
    };
    int64_t sequence;
    int64_t capacity;             // tokens to reserve cache for
    int64_t cached_tokens = 0;    // of the prompt: it begins with
    std::vector<int64_t> shares;  // nodes of stripes 0, 1, ..., and
    std::vector<Copy> copies;     // of those behind them
  };
  struct Prefill {
    int64_t sequence;
    Range tokens;
    bool last;                 // ends the prompt
    int64_t logprobs;          // alternatives per prompt token, -1: no prompt log-probabilities
    std::vector<int32_t> ids;  // of `tokens`, and, with logprobs, of the token behind them if any
  };
  struct Decode {
    int64_t sequence;
    int64_t position;
    int32_t id;
    bool observed;  // rank 0 counts what it selects
  };
  bool shutdown = false;
  bool gathers_stats = false;  // of the ranks, when all else is done
  bool takes_phases = false;   // of the steps before; nothing else
  bool counts_selections = false;
  // In this order.
  std::vector<Publish> publishes;
  std::vector<int64_t> closes;  // frees their cache
  std::vector<int64_t> evicts;  // nodes
  std::vector<Open> opens;
  std::optional<Prefill> prefill;
  std::vector<Decode> decodes;

  std::vector<int64_t> Serialize() const;
  static StepPlan Deserialize(const std::vector<int64_t>& words);
};

// Continuous batching: which sequences run, and whose prompt gets the next chunk. Sequences start
// in order of arrival, each when there is a place and cache for its whole length, so that it never
// has to give up cache later. Prompts take turns, a chunk each, so that a short one soon gets
// through.
class Scheduler {
 public:
  struct Limits {
    int64_t max_num_seqs = 1;
    int64_t chunk_tokens = 1;
    int64_t pages = 0;  // of each rank
    PrefixCache::Shape shape;
    bool caches_prefixes = false;
  };
  // `cache` may hold pages already, up to the limit, none in use.
  Scheduler(const Limits& limits, PrefixCache cache);
  explicit Scheduler(const Limits& limits) : Scheduler(limits, PrefixCache(limits.shape)) {}

  struct Work {
    std::vector<StepPlan::Publish> publishes;
    std::vector<int64_t> evicts;
    std::vector<StepPlan::Open> opens;
    struct Chunk {
      int64_t sequence;
      Range tokens;
      bool last;
    };
    std::optional<Chunk> prefill;
    std::vector<int64_t> decodes;  // sequences, ascending in order of submission
  };

  // `prompt` must live until Remove. If `computes_all`, none of it is taken from the prefix cache.
  void Add(int64_t sequence, absl::Span<const int32_t> prompt, int64_t capacity,
           bool computes_all = false);
  // The next step's work. A sequence whose prompt this step ends decodes from the next step on.
  Work Next();
  // The sequence has ended, wherever it stood; its place and cache are free from the next step on.
  // True if it was running, so that ranks have to close it.
  bool Remove(int64_t sequence);

  int64_t num_running() const { return static_cast<int64_t>(running_.size()); }
  // Of a rank: those of running sequences, and cached ones.
  int64_t used_pages(int rank) const { return used_pages_[rank]; }
  int64_t cached_pages(int rank) const { return cache_.num_pages(rank); }
  const PrefixCache& cache() const { return cache_; }
  // Of the cached ones: those that can be evicted, since no running sequence needs them.
  int64_t evictable_pages(int rank) const {
    return cache_.num_pages(rank) - cache_.num_held_pages(rank);
  }
  int64_t num_waiting() const { return static_cast<int64_t>(waiting_.size()); }
  bool idle() const { return waiting_.empty() && running_.empty(); }

 private:
  static constexpr int64_t kHasTheTurn = std::numeric_limits<int64_t>::max();  // in the last step

  struct Entry {
    int64_t sequence;
    absl::Span<const int32_t> prompt;
    int64_t capacity;
    bool computes_all;
    int64_t prefilled = 0;
    int64_t turn = 0;  // of its prompt: the lowest goes next
    bool published = false;
    std::vector<int64_t> nodes;  // that it uses: of shared pages, then of its own

    bool is_prefilled() const { return prefilled == static_cast<int64_t>(prompt.size()); }
  };

  // Makes room on all ranks and starts the sequence, if that is possible.
  bool Start(Entry* entry, Work* work);
  // What of the prompt is in the sequence's pages becomes part of the prefix cache.
  void Publish(Entry* entry);

  Limits limits_;
  PrefixCache cache_;
  std::vector<int64_t> used_pages_;  // [ranks]
  bool head_waits_ = false;          // for pages: nothing has changed since there were too few
  std::deque<Entry> waiting_;
  std::vector<Entry> running_;
  int64_t next_turn_ = 0;
  std::vector<StepPlan::Publish> publishes_;  // for the next step
  std::vector<int64_t> copied_;               // nodes in use until the step has copied them
};

}  // namespace longspan

#endif  // LONGSPAN_RUNTIME_SCHEDULER_H_
