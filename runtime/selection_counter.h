#ifndef LONGSPAN_RUNTIME_SELECTION_COUNTER_H_
#define LONGSPAN_RUNTIME_SELECTION_COUNTER_H_

#include <cstdint>
#include <map>
#include <memory>
#include <vector>

#include "absl/status/status.h"
#include "absl/types/span.h"
#include "runtime/attention_context.h"
#include "runtime/selection_stats.h"

namespace longspan {

// Decoded tokens of a sequence for each that is also scored exactly: the first that is counted, and
// so on.
inline constexpr int64_t kTokensPerRecall = 8;

// One rank's part in counting what steps select. Rank 0 has the statistics; the others take part in
// exact scores.
class SelectionCounter {
 public:
  // `context` outlives the counter. on_gpu: no queries will be seen.
  SelectionCounter(const AttentionContext* context, int64_t layers, bool on_gpu)
      : context_(context), layers_(layers), on_gpu_(on_gpu) {}

  // Rank 0: from now on there are statistics, anew if there were some.
  void Start();
  const SelectionStats* stats() const { return stats_.get(); }  // null before Start, or elsewhere

  // All ranks alike. counts: whether this step's selections count. closes: sequences that ended.
  void BeginStep(bool counts, absl::Span<const int64_t> closes);
  bool counts() const { return counts_; }

  void AddPrefill(int64_t sequence, int64_t layer, Range block, absl::Span<const int64_t> chosen);

  // Of a decode step: row i is the token of sequences[i]. Then, of each layer, its queries, [rows,
  // heads, head_dim] before RoPE, which stay where they are, and what each row selected.
  // Collective.
  void BeginDecode(absl::Span<const int64_t> sequences, absl::Span<const DecodeToken> tokens);
  void SetQueries(const float* queries) { queries_ = queries; }
  void AddDecode(int64_t layer, int64_t row, Range block, absl::Span<const int64_t> chosen);
  // How the step's exact scores went.
  absl::Status EndDecode();

 private:
  struct Row {
    int64_t sequence = 0;
    DecodeToken token;
    bool tells_recall = false;
  };

  bool IsChoice(Range block, absl::Span<const int64_t> chosen) const;

  const AttentionContext* context_;
  int64_t layers_;
  bool on_gpu_;
  std::unique_ptr<SelectionStats> stats_;
  bool counts_ = false;
  std::map<int64_t, int64_t> decoded_;  // tokens that were counted of each sequence
  std::vector<Row> rows_;               // of the step
  const float* queries_ = nullptr;      // of the layer
  absl::Status scored_;
};

}  // namespace longspan

#endif  // LONGSPAN_RUNTIME_SELECTION_COUNTER_H_
