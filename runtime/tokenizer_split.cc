#include "runtime/tokenizer_split.h"

#include <algorithm>
#include <utility>

#include "kernels/base/status_macros.h"
#include "runtime/tokenizer_normalize.h"

namespace longspan {
namespace {

// Whether `next` continues the span before it, `last`.
bool Joins(SplitBehavior behavior, const RegexSpan& last, const RegexSpan& next) {
  switch (behavior) {
    case SplitBehavior::kContiguous:
      return last.is_match == next.is_match;
    case SplitBehavior::kMergedWithPrevious:
      return next.is_match && !last.is_match;
    case SplitBehavior::kMergedWithNext:
      return last.is_match && !next.is_match;
    case SplitBehavior::kRemoved:
    case SplitBehavior::kIsolated:
      return false;
  }
  return false;
}

}  // namespace

PreTokenizerRun::PreTokenizerRun(const std::vector<PreTokenizerStage>& stages) {
  stages_.reserve(stages.size());
  for (const PreTokenizerStage& stage : stages) {
    if (const auto* split = std::get_if<SplitStage>(&stage)) {
      stages_.emplace_back(SplitRun{RegexMatcher(split->regex), split->behavior, split->invert});
    } else if (const auto* metaspace = std::get_if<MetaspaceStage>(&stage)) {
      stages_.emplace_back(MetaspaceRun{*metaspace, {}});
    } else {
      stages_.emplace_back(PrefixSpaceRun{});
    }
  }
}

absl::Status PreTokenizerRun::Split(std::string_view text, bool begins_text, Emit emit) {
  return RunFrom(0, {text, begins_text}, emit);
}

absl::Status PreTokenizerRun::RunFrom(size_t stage, Piece piece, Emit emit) {
  if (piece.text.empty()) return absl::OkStatus();
  if (stage == stages_.size()) return emit(piece.text);
  if (std::holds_alternative<SplitRun>(stages_[stage])) return RunSplit(stage, piece, emit);
  if (std::holds_alternative<MetaspaceRun>(stages_[stage])) return RunMetaspace(stage, piece, emit);
  if (piece.text.starts_with(' ')) return RunFrom(stage + 1, piece, emit);
  std::string& spaced = std::get<PrefixSpaceRun>(stages_[stage]).piece;
  spaced.clear();
  spaced.push_back(' ');
  spaced.append(piece.text);
  return RunFrom(stage + 1, {spaced, piece.begins_text}, emit);
}

absl::Status PreTokenizerRun::RunSplit(size_t stage, Piece piece, Emit emit) {
  SplitRun& split = std::get<SplitRun>(stages_[stage]);
  RegexSpan last{0, 0, false};
  bool open = false;  // `last` may still grow
  const auto finish = [&]() -> absl::Status {
    if (!open || (split.behavior == SplitBehavior::kRemoved && last.is_match)) {
      return absl::OkStatus();
    }
    return RunFrom(stage + 1, piece.Part(last.begin, last.end), emit);
  };
  const auto visit = [&](RegexSpan next) -> absl::Status {
    next.is_match ^= split.invert;
    if (open && Joins(split.behavior, last, next)) {
      next.begin = last.begin;
    } else {
      LONGSPAN_RETURN_IF_ERROR(finish());
    }
    last = next;
    open = true;
    return absl::OkStatus();
  };
  LONGSPAN_RETURN_IF_ERROR(split.matcher.ForEachSpan(piece.text, visit));
  return finish();
}

absl::Status PreTokenizerRun::RunMetaspace(size_t stage, Piece piece, Emit emit) {
  auto& [options, text] = std::get<MetaspaceRun>(stages_[stage]);
  text = ReplaceAll(piece.text, " ", options.replacement);
  const bool prepends = options.prepend == MetaspaceStage::Prepend::kAlways ||
                        (options.prepend == MetaspaceStage::Prepend::kFirst && piece.begins_text);
  if (prepends && !text.starts_with(options.replacement)) text.insert(0, options.replacement);
  const Piece spaced{text, piece.begins_text};
  if (!options.split) return RunFrom(stage + 1, spaced, emit);
  size_t begin = 0;
  while (begin < text.size()) {
    const size_t end = std::min(text.find(options.replacement, begin + 1), text.size());
    LONGSPAN_RETURN_IF_ERROR(RunFrom(stage + 1, spaced.Part(begin, end), emit));
    begin = end;
  }
  return absl::OkStatus();
}

}  // namespace longspan
