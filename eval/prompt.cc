#include "eval/prompt.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_replace.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "kernels/base/status_macros.h"

namespace longspan {
namespace {

constexpr absl::string_view kDocument = "{document}", kQuestion = "{question}";
constexpr int64_t kAnswerTokens = 32;  // beside what is asked for: "The answer is"

void Append(const std::vector<int32_t>& more, std::vector<int32_t>* ids) {
  ids->insert(ids->end(), more.begin(), more.end());
}

// A draft in token ids.
struct EncodedDraft {
  PromptFrame frame;
  std::vector<std::vector<int32_t>> needles;
  int64_t tokens = 0;  // of both
  int64_t answer_tokens = 0;
};

absl::StatusOr<EncodedDraft> EncodeDraft(const PromptMaterial& material, const Draft& draft,
                                         int64_t length) {
  EncodedDraft encoded;
  LONGSPAN_ASSIGN_OR_RETURN(encoded.frame, MakePromptFrame(material, draft.question));
  encoded.tokens = encoded.frame.tokens();
  for (const Needle& needle : draft.needles) {
    LONGSPAN_ASSIGN_OR_RETURN(encoded.needles.emplace_back(),
                              EncodeLine(material.tokenizer, needle.text));
    encoded.tokens += static_cast<int64_t>(encoded.needles.back().size());
  }
  if (encoded.tokens > length) {
    return absl::InvalidArgumentError(absl::StrCat(
        length, " tokens do not hold the facts and the question, which have ", encoded.tokens));
  }
  LONGSPAN_ASSIGN_OR_RETURN(const std::vector<int32_t> answer,
                            EncodeLine(material.tokenizer, absl::StrJoin(draft.answers, ", ")));
  encoded.answer_tokens = static_cast<int64_t>(answer.size()) + kAnswerTokens;
  return encoded;
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

absl::StatusOr<ChatFrame> MakeChatFrame(const ChatTemplate& chat_template) {
  constexpr absl::string_view kMessage = "what-a-user-says";
  const nlohmann::ordered_json messages = {{{"role", "user"}, {"content", kMessage}}};
  LONGSPAN_ASSIGN_OR_RETURN(
      const std::string text,
      chat_template.Render(messages, nullptr, /*add_generation_prompt=*/true, nullptr));
  const std::vector<std::string> parts = absl::StrSplit(text, kMessage);
  if (parts.size() == 2) return ChatFrame{parts[0], parts[1]};
  return absl::FailedPreconditionError(
      absl::StrCat("--chat: the model's chat template has a user's message ", parts.size() - 1,
                   " times, not once"));
}

absl::StatusOr<PromptFrame> MakePromptFrame(const PromptMaterial& material,
                                            absl::string_view question) {
  const ChatFrame chat = material.chat.value_or(ChatFrame());
  const auto asked = [&](absl::string_view text) {
    return absl::StrReplaceAll(text, {{kQuestion, question}});
  };
  PromptFrame frame;
  if (!material.chat) {  // whose template writes special tokens itself
    LONGSPAN_ASSIGN_OR_RETURN(frame.before, BeginningOfPrompt(material.tokenizer));
  }
  LONGSPAN_ASSIGN_OR_RETURN(
      const std::vector<int32_t> before,
      material.tokenizer.Encode(absl::StrCat(chat.before, asked(material.form.before)),
                                /*add_special_tokens=*/false));
  Append(before, &frame.before);
  LONGSPAN_ASSIGN_OR_RETURN(
      frame.behind,
      EncodeLine(material.tokenizer, absl::StrCat(asked(material.form.behind), chat.behind)));
  return frame;
}

absl::StatusOr<EvalCase> BuildCase(const PromptMaterial& material, Draft draft, int64_t length,
                                   EvalRandom& random) {
  std::stable_sort(draft.needles.begin(), draft.needles.end(),
                   [](const Needle& a, const Needle& b) { return a.depth < b.depth; });
  LONGSPAN_ASSIGN_OR_RETURN(const EncodedDraft encoded, EncodeDraft(material, draft, length));
  const int64_t filler = length - encoded.tokens;
  LONGSPAN_ASSIGN_OR_RETURN(const Lines lines, material.haystack.Take(filler, random));

  EvalCase made;
  made.prompt = encoded.frame.before;
  int64_t placed = 0;  // of the filler
  for (size_t i = 0; i < encoded.needles.size(); ++i) {
    const int64_t place = NearestBreak(lines, draft.needles[i].depth * static_cast<double>(filler));
    made.prompt.insert(made.prompt.end(), lines.ids.begin() + placed, lines.ids.begin() + place);
    placed = place;
    Append(encoded.needles[i], &made.prompt);
  }
  made.prompt.insert(made.prompt.end(), lines.ids.begin() + placed, lines.ids.end());
  Append(encoded.frame.behind, &made.prompt);

  made.max_tokens = encoded.answer_tokens;
  made.is_chat = material.chat.has_value();
  if (!made.is_chat) made.stop = material.form.stop;
  // A list may have an answer a line.
  if (draft.answers.size() > 1 && made.stop == "\n") made.stop = "\n\n";
  made.question = std::move(draft.question);
  made.answers = std::move(draft.answers);
  return made;
}

absl::StatusOr<int64_t> MeasureCase(const PromptMaterial& material, const Draft& draft,
                                    int64_t length) {
  LONGSPAN_ASSIGN_OR_RETURN(const EncodedDraft encoded, EncodeDraft(material, draft, length));
  return encoded.answer_tokens;
}

}  // namespace longspan
