#include "eval/prompt.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_replace.h"
#include "absl/strings/strip.h"
#include "kernels/base/status_macros.h"

namespace longspan {
namespace {

constexpr absl::string_view kDocument = "{document}", kQuestion = "{question}";
constexpr int64_t kAnswerTokens = 32;  // beside what is asked for: "The answer is"

void Append(const std::vector<int32_t>& more, std::vector<int32_t>* ids) {
  ids->insert(ids->end(), more.begin(), more.end());
}

// The end of a line, or the beginning of the text, nearest to `place`.
int64_t NearestBreak(const Lines& lines, double place) {
  const auto behind = std::lower_bound(lines.ends.begin(), lines.ends.end(), place);
  const int64_t before = behind == lines.ends.begin() ? 0 : behind[-1];
  if (behind == lines.ends.end()) return before;
  const auto next = static_cast<double>(*behind);
  return next - place < place - static_cast<double>(before) ? *behind : before;
}

}  // namespace

absl::StatusOr<PromptForm> MakePromptForm(absl::string_view prompt_template,
                                          absl::string_view stop) {
  for (const absl::string_view part : {kDocument, kQuestion}) {
    if (absl::StrContains(prompt_template, part)) continue;
    return absl::InvalidArgumentError(
        absl::StrCat("`ask.prompt_template` has no ", part, ": it must say where both go"));
  }
  const size_t document = prompt_template.find(kDocument);
  PromptForm form;
  form.before = std::string(prompt_template.substr(0, document));
  // A document ends with a line break of its own.
  form.behind =
      std::string(absl::StripPrefix(prompt_template.substr(document + kDocument.size()), "\n"));
  form.stop = std::string(stop);
  return form;
}

absl::StatusOr<PromptFrame> MakePromptFrame(const PromptMaterial& material,
                                            absl::string_view question) {
  PromptFrame frame;
  LONGSPAN_ASSIGN_OR_RETURN(frame.before, BeginningOfPrompt(material.tokenizer));
  LONGSPAN_ASSIGN_OR_RETURN(
      const std::vector<int32_t> before,
      material.tokenizer.Encode(absl::StrReplaceAll(material.form.before, {{kQuestion, question}}),
                                /*add_special_tokens=*/false));
  Append(before, &frame.before);
  LONGSPAN_ASSIGN_OR_RETURN(
      frame.behind, EncodeLine(material.tokenizer,
                               absl::StrReplaceAll(material.form.behind, {{kQuestion, question}})));
  return frame;
}

absl::StatusOr<EvalCase> BuildCase(const PromptMaterial& material, Draft draft, int64_t length,
                                   EvalRandom& random) {
  LONGSPAN_ASSIGN_OR_RETURN(const PromptFrame frame, MakePromptFrame(material, draft.question));
  std::stable_sort(draft.needles.begin(), draft.needles.end(),
                   [](const Needle& a, const Needle& b) { return a.depth < b.depth; });
  std::vector<std::vector<int32_t>> needles;
  int64_t fixed = frame.tokens();
  for (const Needle& needle : draft.needles) {
    LONGSPAN_ASSIGN_OR_RETURN(needles.emplace_back(), EncodeLine(material.tokenizer, needle.text));
    fixed += static_cast<int64_t>(needles.back().size());
  }
  if (fixed > length) {
    return absl::InvalidArgumentError(
        absl::StrCat(length, " tokens do not hold the facts and the question, which have ", fixed));
  }
  const int64_t filler = length - fixed;
  LONGSPAN_ASSIGN_OR_RETURN(const Lines lines, material.haystack.Take(filler, random));

  EvalCase made;
  made.prompt = frame.before;
  int64_t placed = 0;  // of the filler
  for (size_t i = 0; i < needles.size(); ++i) {
    const int64_t place = NearestBreak(lines, draft.needles[i].depth * static_cast<double>(filler));
    made.prompt.insert(made.prompt.end(), lines.ids.begin() + placed, lines.ids.begin() + place);
    placed = place;
    Append(needles[i], &made.prompt);
  }
  made.prompt.insert(made.prompt.end(), lines.ids.begin() + placed, lines.ids.end());
  Append(frame.behind, &made.prompt);

  LONGSPAN_ASSIGN_OR_RETURN(const std::vector<int32_t> answer,
                            EncodeLine(material.tokenizer, absl::StrJoin(draft.answers, ", ")));
  made.max_tokens = static_cast<int64_t>(answer.size()) + kAnswerTokens;
  made.question = std::move(draft.question);
  made.answers = std::move(draft.answers);
  made.stop = material.form.stop;
  return made;
}

}  // namespace longspan
