#include "runtime/selection_counter.h"

#include <string>
#include <utility>

#include "runtime/exact_selection.h"

namespace longspan {
namespace {

// Empty: recall can be told.
std::string WhyNoRecall(const AttentionContext& context, bool on_gpu) {
  if (on_gpu) return "exact scores for comparison are of CPU ranks";
  switch (context.esa.score) {
    case Score::kHeadSum:
      return "";
    case Score::kHeadMax:
    case Score::kSoftVote:
      return "this esa.score reads whole keys: each selection is the exact one";
    case Score::kGroupVote:
      return "esa.score: group_vote is of compressed dimensions, and has no exact score";
  }
  return "";
}

}  // namespace

void SelectionCounter::Start() {
  stats_ =
      std::make_unique<SelectionStats>(layers_, context_->layout, WhyNoRecall(*context_, on_gpu_));
}

void SelectionCounter::BeginStep(bool counts, absl::Span<const int64_t> closes) {
  counts_ = counts && context_->selects;
  for (const int64_t sequence : closes) decoded_.erase(sequence);
  if (stats_ == nullptr) return;
  for (const int64_t sequence : closes) stats_->Forget(sequence);
  stats_->BeginStep();
}

void SelectionCounter::AddPrefill(int64_t sequence, int64_t layer, Range block,
                                  absl::Span<const int64_t> chosen) {
  if (stats_ == nullptr || !IsChoice(block, chosen)) return;
  stats_->Add(SelectionStats::kPrefill, sequence, layer, block, chosen);
}

void SelectionCounter::BeginDecode(absl::Span<const int64_t> sequences,
                                   absl::Span<const DecodeToken> tokens) {
  const bool has_recall = WhyNoRecall(*context_, on_gpu_).empty();
  rows_.clear();
  for (size_t i = 0; i < sequences.size(); ++i) {
    const bool is_due = decoded_[sequences[i]]++ % kTokensPerRecall == 0;
    rows_.push_back({sequences[i], tokens[i], has_recall && is_due});
  }
  queries_ = nullptr;
  scored_ = absl::OkStatus();
}

void SelectionCounter::AddDecode(int64_t layer, int64_t row, Range block,
                                 absl::Span<const int64_t> chosen) {
  if (!IsChoice(block, chosen)) return;
  const Row& of = rows_[row];
  if (stats_ != nullptr) stats_->Add(SelectionStats::kDecode, of.sequence, layer, block, chosen);
  if (!of.tells_recall || !scored_.ok()) return;
  const float* query = queries_ + row * context_->shape.query_dim();
  const absl::StatusOr<std::vector<int64_t>> exact =
      SelectExactly(*context_, layer, of.token, query);
  scored_ = exact.status();
  if (exact.ok() && stats_ != nullptr) stats_->AddRecall(layer, chosen, *exact);
}

absl::Status SelectionCounter::EndDecode() { return std::exchange(scored_, absl::OkStatus()); }

// Whether there was more to select from than could be taken.
bool SelectionCounter::IsChoice(Range block, absl::Span<const int64_t> chosen) const {
  const Range middle = RangesOfBlock(context_->sizes, block).middle;
  return !chosen.empty() && static_cast<int64_t>(chosen.size()) < middle.size();
}

}  // namespace longspan
