#ifndef LONGSPAN_EVAL_PROMPT_H_
#define LONGSPAN_EVAL_PROMPT_H_

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "eval/eval_case.h"
#include "eval/eval_random.h"
#include "eval/haystack.h"
#include "runtime/chat_template.h"
#include "runtime/tokenizer.h"

namespace longspan {

// How a model is asked about a document: what stands around it. Each may have `{question}`.
struct PromptForm {
  std::string before, behind;
  std::string stop;  // answers end before it; empty: only where the model ends them
};

// What a chat template writes around what a user says.
struct ChatFrame {
  std::string before, behind;
};

// FailedPrecondition: the template does not pass on what a user says. Other errors are the
// template's own.
absl::StatusOr<ChatFrame> MakeChatFrame(const ChatTemplate& chat_template);

// The config's `ask.prompt_template` and `ask.stop`. InvalidArgument: the template has no
// {document} or no {question}.
absl::StatusOr<PromptForm> MakePromptForm(absl::string_view prompt_template,
                                          absl::string_view stop);

// What all prompts are made from.
struct PromptMaterial {
  const Tokenizer& tokenizer;
  const Haystack& haystack;
  PromptForm form;
  std::map<std::string, std::string> prompts;  // of benchmarks, by data set, in place of ours
  std::optional<ChatFrame> chat;               // prompts are what a user says
  int64_t stride = 0;  // of perplexity's windows; 0: pieces one behind the other
};

// Lines to hide in a document.
struct Needle {
  double depth = 0;  // of the filler text, 0 to 1: so much of it stands before them
  std::string text;  // ends with a newline
};

// A case without its filler text.
struct Draft {
  std::vector<Needle> needles;
  std::string question;
  std::vector<std::string> answers;
};

// Ids of the prompt without its document, and of the document's place in it.
struct PromptFrame {
  std::vector<int32_t> before, behind;

  int64_t tokens() const { return static_cast<int64_t>(before.size() + behind.size()); }
};
absl::StatusOr<PromptFrame> MakePromptFrame(const PromptMaterial& material,
                                            absl::string_view question);

// Hides the needles in filler text, each at the end of the line that is nearest to its depth, so
// that the prompt has exactly `length` tokens; those of equal depth keep their order.
// InvalidArgument: they and the question have more.
absl::StatusOr<EvalCase> BuildCase(const PromptMaterial& material, Draft draft, int64_t length,
                                   EvalRandom& random);
// EvalCase::max_tokens of that case, or its error.
absl::StatusOr<int64_t> MeasureCase(const PromptMaterial& material, const Draft& draft,
                                    int64_t length);

}  // namespace longspan

#endif  // LONGSPAN_EVAL_PROMPT_H_
