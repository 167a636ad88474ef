#include "runtime/tokenizer_normalize.h"

#include <utility>

#include "kernels/base/status_macros.h"

namespace longspan {
namespace {

absl::StatusOr<std::string> ReplaceMatches(std::string_view text, RegexMatcher& matcher,
                                           std::string_view content) {
  std::string out;
  LONGSPAN_RETURN_IF_ERROR(matcher.ForEachSpan(text, [&](RegexSpan span) {
    out += span.is_match ? content : text.substr(span.begin, span.end - span.begin);
    return absl::OkStatus();
  }));
  return out;
}

absl::StatusOr<std::string> Apply(const NormalizerStep& step, std::optional<RegexMatcher>& matcher,
                                  std::string_view text) {
  if (const auto* prepend = std::get_if<PrependStep>(&step)) {
    return prepend->text + std::string(text);
  }
  if (const auto* replace = std::get_if<ReplaceStep>(&step)) {
    return matcher ? ReplaceMatches(text, *matcher, replace->content)
                   : ReplaceAll(text, replace->literal, replace->content);
  }
  std::string out;
  AppendNormalized(text, std::get<NormalForm>(step), out);
  return out;
}

}  // namespace

std::string ReplaceAll(std::string_view text, std::string_view literal, std::string_view content) {
  std::string out;
  out.reserve(text.size() + text.size() / 2);
  while (true) {
    const size_t at = text.find(literal);
    out += text.substr(0, at);
    if (at == text.npos) return out;
    out += content;
    text.remove_prefix(at + literal.size());
  }
}

NormalizerRun::NormalizerRun(const std::vector<NormalizerStep>& steps) : steps_(steps) {
  for (const NormalizerStep& step : steps) {
    const auto* replace = std::get_if<ReplaceStep>(&step);
    std::optional<RegexMatcher>& matcher = matchers_.emplace_back();
    if (replace != nullptr && replace->regex) matcher.emplace(*replace->regex);
  }
}

absl::StatusOr<std::string_view> NormalizerRun::Normalize(std::string_view text) {
  for (size_t i = 0; i < steps_.size() && !text.empty(); ++i) {
    LONGSPAN_ASSIGN_OR_RETURN(std::string next, Apply(steps_[i], matchers_[i], text));
    text_ = std::move(next);
    text = text_;
  }
  return text;
}

}  // namespace longspan
