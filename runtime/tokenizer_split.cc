#include "runtime/tokenizer_split.h"

#include <utility>

#include "kernels/base/status_macros.h"

namespace longspan {
namespace {

struct Span {
  size_t begin;
  size_t end;
  bool is_match;
};

// Whether `next` continues the span before it, `last`.
bool Joins(SplitBehavior behavior, const Span& last, const Span& next) {
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

size_t NextCharacter(std::string_view text, size_t i) {
  do ++i;
  while (i < text.size() && (text[i] & 0xC0) == 0x80);
  return i;
}

// The matches of `matcher` in `text` and what lies between them, in order. An empty match counts
// unless it directly follows another match.
template <typename Visit>
absl::Status ForEachSpan(RegexMatcher& matcher, std::string_view text, Visit&& visit) {
  size_t done = 0;   // everything before is visited
  size_t from = 0;   // where the next search starts
  bool any = false;  // a match ended at `done`
  while (from <= text.size()) {
    size_t begin, end;
    LONGSPAN_ASSIGN_OR_RETURN(const bool found, matcher.Find(text, from, &begin, &end));
    if (!found) break;
    if (begin == end && any && end == done) {
      from = NextCharacter(text, from);
      continue;
    }
    if (begin > done) LONGSPAN_RETURN_IF_ERROR(visit(Span{done, begin, false}));
    LONGSPAN_RETURN_IF_ERROR(visit(Span{begin, end, true}));
    any = true;
    done = from = end;
  }
  return done < text.size() ? visit(Span{done, text.size(), false}) : absl::OkStatus();
}

}  // namespace

PreTokenizerRun::PreTokenizerRun(const std::vector<PreTokenizerStage>& stages) {
  stages_.reserve(stages.size());
  for (const PreTokenizerStage& stage : stages) {
    if (const auto* split = std::get_if<SplitStage>(&stage)) {
      stages_.emplace_back(SplitRun{RegexMatcher(split->regex), split->behavior, split->invert});
    } else {
      stages_.emplace_back(PrefixSpaceRun{});
    }
  }
}

absl::Status PreTokenizerRun::Split(std::string_view text, Emit emit) {
  return RunFrom(0, text, emit);
}

absl::Status PreTokenizerRun::RunFrom(size_t stage, std::string_view piece, Emit emit) {
  if (piece.empty()) return absl::OkStatus();
  if (stage == stages_.size()) {
    emit(piece);
    return absl::OkStatus();
  }
  if (std::holds_alternative<SplitRun>(stages_[stage])) return RunSplit(stage, piece, emit);
  if (piece.starts_with(' ')) return RunFrom(stage + 1, piece, emit);
  std::string& spaced = std::get<PrefixSpaceRun>(stages_[stage]).piece;
  spaced.clear();
  spaced.push_back(' ');
  spaced.append(piece);
  return RunFrom(stage + 1, spaced, emit);
}

absl::Status PreTokenizerRun::RunSplit(size_t stage, std::string_view piece, Emit emit) {
  SplitRun& split = std::get<SplitRun>(stages_[stage]);
  Span last{0, 0, false};
  bool open = false;  // `last` may still grow
  const auto finish = [&]() -> absl::Status {
    if (!open || (split.behavior == SplitBehavior::kRemoved && last.is_match)) {
      return absl::OkStatus();
    }
    return RunFrom(stage + 1, piece.substr(last.begin, last.end - last.begin), emit);
  };
  const auto visit = [&](Span next) -> absl::Status {
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
  LONGSPAN_RETURN_IF_ERROR(ForEachSpan(split.matcher, piece, visit));
  return finish();
}

}  // namespace longspan
