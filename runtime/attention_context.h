#ifndef LONGSPAN_RUNTIME_ATTENTION_CONTEXT_H_
#define LONGSPAN_RUNTIME_ATTENTION_CONTEXT_H_

#include <cstdint>
#include <functional>
#include <optional>
#include <vector>

#include "absl/types/span.h"
#include "collectives/communicator.h"
#include "kernels/attention.h"
#include "kernels/rope.h"
#include "kernels/vote.h"
#include "runtime/config.h"
#include "runtime/kv_shard.h"
#include "runtime/phase_clock.h"
#include "sharding/attention_ranges.h"
#include "sharding/layer_schedule.h"
#include "sharding/merge_choice.h"
#include "sharding/sequence_layout.h"

namespace longspan {

// Low-rank factors of one layer's score, transposed so that they apply as linear layers.
struct ScoreFactors {
  std::vector<float> query;  // A^T [score_dim, kv_dim]
  std::vector<float> key;    // B^T [score_dim, kv_dim]
};

// Keys that queries attended to, and what dense attention would have cost, summed over layers.
struct AttentionCounts {
  int64_t attended = 0;
  int64_t dense = 0;
};

// Told what each block of queries selected in each layer, ascending.
using SelectionObserver =
    std::function<void(int64_t layer, Range block, absl::Span<const int64_t> selected)>;

// What attention on one rank needs beside activations and cache; lives as long as the engine.
struct AttentionContext {
  Communicator* communicator = nullptr;
  AttentionShape shape;
  KvShape kv;
  AttentionSizes sizes;
  SequenceLayout layout;
  EsaConfig esa;
  Voters voters;  // of the score; of the head sum one, who reads all that the score reads
  BufferLimits limits;
  bool selects = false;    // attention: esa, with something to select
  int64_t panel_rows = 0;  // of linear layers; 0: not deterministic
  bool deterministic = false;
  std::vector<ScoreFactors> factors;  // [layers]; empty: exact scores
  Rope* rope = nullptr;
  AttentionCounts* counts = nullptr;
  PhaseClock* phases = nullptr;    // null: nobody asks where time goes
  SelectionObserver on_selection;  // may be empty
  std::optional<Moving> moving;    // in prefill; empty: what is cheaper
  std::optional<MergeWay> merge;   // of candidates; empty: what is cheaper

  bool exact() const { return factors.empty(); }
  // Heads score for themselves, so that their queries are not summed.
  bool score_reads_heads() const {
    return esa.score == Score::kHeadMax || esa.score == Score::kSoftVote;
  }
};

// One selection block of a prefill chunk.
struct PrefillBlock {
  Range tokens;
  int rank = 0;     // owner of its tokens
  int64_t row = 0;  // on the owner: of its first token among the rank's rows of the chunk
  AttentionRanges ranges;
};

// Consecutive prompt tokens of one sequence that one forward pass takes. A rank's activations are
// the rows of its own blocks; a block's rows are padded to whole panels.
struct PrefillChunk {
  KvShard* cache = nullptr;
  Range tokens;
  int64_t capacity = 0;              // tokens the sequence's cache has room for
  bool behind_cached = false;        // the first of its prompt, but not of position 0
  std::vector<PrefillBlock> blocks;  // of all ranks, ascending
  int64_t rows = 0;                  // of this rank
};

// One sequence's newest token.
struct DecodeToken {
  KvShard* cache = nullptr;
  int64_t position = 0;
};

}  // namespace longspan

#endif  // LONGSPAN_RUNTIME_ATTENTION_CONTEXT_H_
