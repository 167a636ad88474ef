#ifndef LONGSPAN_RUNTIME_CHAT_PROMPT_H_
#define LONGSPAN_RUNTIME_CHAT_PROMPT_H_

#include <cstdint>
#include <limits>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "runtime/batch.h"
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

// Token ids of a text prompt; warns, with `name`, of what the tokenizer had to change. OutOfRange
// if there are more than `max_tokens`, before all of a far longer text was encoded.
absl::StatusOr<std::vector<int32_t>> EncodePrompt(
    const Tokenizer& tokenizer, const std::string& text, const std::string& name,
    bool add_special_tokens = true, int64_t max_tokens = std::numeric_limits<int64_t>::max());

// Makes token ids of what requests hold. Safe to share between threads.
class PromptMaker {
 public:
  // `chat_template` may be null: then chats are refused. Chats that state no max_tokens get what is
  // left of max_model_len, but at most `default_max_tokens`.
  PromptMaker(const Tokenizer& tokenizer, const ChatTemplate* chat_template, int64_t max_model_len,
              int64_t default_max_tokens = std::numeric_limits<int64_t>::max())
      : tokenizer_(tokenizer),
        chat_template_(chat_template),
        max_model_len_(max_model_len),
        default_max_tokens_(default_max_tokens),
        end_of_turn_ids_(EndOfTurnIds(tokenizer)) {}

  // Fills in prompt_tokens, and for a chat prompt_text and what depends on both. InvalidArgument if
  // a text has more than max_model_len tokens. `name`: of the request, in warnings.
  absl::Status Make(const std::string& name, BatchRequest* request) const;

 private:
  const Tokenizer& tokenizer_;
  const ChatTemplate* chat_template_;
  int64_t max_model_len_, default_max_tokens_;
  std::vector<int32_t> end_of_turn_ids_;
};

}  // namespace longspan

#endif  // LONGSPAN_RUNTIME_CHAT_PROMPT_H_
