#ifndef LONGSPAN_RUNTIME_SELECTION_STATS_H_
#define LONGSPAN_RUNTIME_SELECTION_STATS_H_

#include <array>
#include <cstdint>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "absl/types/span.h"
#include "sharding/sequence_layout.h"

namespace longspan {

// What one layer selected, over the blocks of prompts or over decoded tokens. Those that took all
// that there was to select from do not count.
struct SelectionCounts {
  struct Mean {
    double sum = 0;
    int64_t count = 0;
  };
  int64_t selections = 0;
  int64_t tokens = 0;              // selected, over all selections
  Mean overlap_of_steps;           // Jaccard index with the block or token before
  Mean overlap_of_layers;          // with the same block's selection in the layer before
  Mean recall;                     // share of the exact selection; of some decoded tokens
  std::vector<int64_t> distances;  // [i]: tokens 2^i to 2^(i+1)-1 before the block's first query
  std::vector<int64_t> of_rank;    // [ranks]: tokens, by who keeps them
};

// Of one run, on rank 0, which knows all selections.
class SelectionStats {
 public:
  enum Stage { kPrefill, kDecode };

  // no_recall: why recall cannot be told; empty if it can.
  SelectionStats(int64_t layers, const SequenceLayout& layout, std::string no_recall = "");

  // Layers come in order in each step, and of each the blocks in order. `selected` ascends.
  void BeginStep();
  void Add(Stage stage, int64_t sequence, int64_t layer, Range block,
           absl::Span<const int64_t> selected);
  // Of `selected` and the exact selection, both ascending.
  void AddRecall(int64_t layer, absl::Span<const int64_t> selected,
                 absl::Span<const int64_t> exact);
  // The sequence has ended.
  void Forget(int64_t sequence);

  const std::vector<SelectionCounts>& counts(Stage stage) const { return counts_[stage]; }
  // Over all layers and both stages.
  int64_t num_selections() const;
  const std::string& no_recall() const { return no_recall_; }
  std::string ToJson() const;

 private:
  struct Selection {
    Range block;
    std::vector<int64_t> positions;
  };
  // Of each layer: this step's, behind the last one of the step before.
  using Recent = std::vector<std::vector<Selection>>;

  SequenceLayout layout_;
  std::string no_recall_;
  std::array<std::vector<SelectionCounts>, 2> counts_;  // [stages][layers]
  std::map<std::pair<int64_t, Stage>, Recent> recent_;  // of each sequence
};

}  // namespace longspan

#endif  // LONGSPAN_RUNTIME_SELECTION_STATS_H_
