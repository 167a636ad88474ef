#ifndef LONGSPAN_RUNTIME_SCHEDULER_H_
#define LONGSPAN_RUNTIME_SCHEDULER_H_

#include <cstdint>
#include <deque>
#include <optional>
#include <vector>

#include "sharding/sequence_layout.h"

namespace longspan {

// What all ranks do in one step. Rank 0 plans it, the others receive it.
struct StepPlan {
  struct Open {
    int64_t sequence;
    int64_t capacity;  // tokens to reserve cache for
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
  };
  bool shutdown = false;
  std::vector<int64_t> closes;  // first: frees their cache
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
    int64_t pages = 0;  // of the rank that keeps most: rank 0
    SequenceLayout layout;
  };
  explicit Scheduler(const Limits& limits) : limits_(limits), free_pages_(limits.pages) {}

  struct Work {
    std::vector<StepPlan::Open> opens;
    struct Chunk {
      int64_t sequence;
      Range tokens;
      bool last;
    };
    std::optional<Chunk> prefill;
    std::vector<int64_t> decodes;  // sequences, ascending in order of submission
  };

  // Cache pages that a sequence of `tokens` needs.
  int64_t PagesFor(int64_t tokens) const { return limits_.layout.NumPages(0, tokens); }
  void Add(int64_t sequence, int64_t prompt_tokens, int64_t capacity);
  // The next step's work. A sequence whose prompt this step ends decodes from the next step on.
  Work Next();
  // The sequence has ended, wherever it stood; its place and cache are free from the next step on.
  // True if it was running, so that ranks have to close it.
  bool Remove(int64_t sequence);

  int64_t num_running() const { return static_cast<int64_t>(running_.size()); }
  int64_t used_pages() const { return limits_.pages - free_pages_; }
  int64_t num_waiting() const { return static_cast<int64_t>(waiting_.size()); }
  bool idle() const { return waiting_.empty() && running_.empty(); }

 private:
  struct Entry {
    int64_t sequence;
    int64_t prompt_tokens;
    int64_t capacity;
    int64_t prefilled = 0;
    int64_t turn = 0;  // of its prompt: the lowest goes next
  };

  Limits limits_;
  int64_t free_pages_;
  std::deque<Entry> waiting_;
  std::vector<Entry> running_;
  int64_t next_turn_ = 0;
};

}  // namespace longspan

#endif  // LONGSPAN_RUNTIME_SCHEDULER_H_
