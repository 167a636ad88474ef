#ifndef LONGSPAN_RUNTIME_CHAT_PROMPT_H_
#define LONGSPAN_RUNTIME_CHAT_PROMPT_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "runtime/chat_template.h"
#include "runtime/tokenizer.h"

namespace longspan {

// The model's chat template, tried on one short message: a template that does not end, or cannot
// be read, is found before anything is loaded. NotFound: the model has none.
absl::StatusOr<ChatTemplate> LoadTriedChatTemplate(const std::string& model_dir);

// What the template makes of a user who says "Hello".
absl::StatusOr<std::string> RenderHello(const ChatTemplate& chat_template);

// Tokens that end a turn in any of the supported families, as far as the vocabulary has them as
// special tokens, and the tokenizer's own `eos_token`: a model's list of end tokens may lack that
// of its chats.
std::vector<int32_t> EndOfTurnIds(const Tokenizer& tokenizer);

}  // namespace longspan

#endif  // LONGSPAN_RUNTIME_CHAT_PROMPT_H_
