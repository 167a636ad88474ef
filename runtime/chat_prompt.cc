#include "runtime/chat_prompt.h"

#include <spdlog/spdlog.h>

#include <algorithm>
#include <nlohmann/json.hpp>
#include <optional>

#include "absl/strings/str_cat.h"
#include "kernels/base/status_macros.h"

namespace longspan {
namespace {

constexpr const char* kEndOfTurn[] = {
    "<|eot_id|>",  // Llama 3
    "<|eom_id|>",  // Llama 3.1, before a tool's answer
    "<|im_end|>",  // Qwen
    "</s>",        // Llama 2, Mistral
};

}  // namespace

absl::StatusOr<ChatTemplate> LoadTriedChatTemplate(const std::string& model_dir) {
  LONGSPAN_ASSIGN_OR_RETURN(ChatTemplate chat_template, ChatTemplate::Load(model_dir));
  const absl::Status tried = RenderHello(chat_template).status();
  // A template may want other messages than this one.
  if (tried.ok() || absl::IsInvalidArgument(tried)) return chat_template;
  return absl::Status(tried.code(), absl::StrCat(model_dir, ": ", tried.message()));
}

absl::StatusOr<std::string> RenderHello(const ChatTemplate& chat_template) {
  const nlohmann::ordered_json messages = {{{"role", "user"}, {"content", "Hello"}}};
  return chat_template.Render(messages, nullptr, /*add_generation_prompt=*/true, nullptr);
}

std::vector<int32_t> EndOfTurnIds(const Tokenizer& tokenizer) {
  std::vector<int32_t> ids;
  for (const char* text : kEndOfTurn) {
    const std::optional<int32_t> id = tokenizer.TokenToId(text);
    if (id.has_value() && tokenizer.IsSpecial(*id)) ids.push_back(*id);
  }
  if (tokenizer.eos_id().has_value()) ids.push_back(*tokenizer.eos_id());
  return ids;
}

absl::StatusOr<std::vector<int32_t>> EncodePrompt(const Tokenizer& tokenizer,
                                                  const std::string& text, const std::string& name,
                                                  bool add_special_tokens, int64_t max_tokens) {
  EncodeNotes notes;
  LONGSPAN_ASSIGN_OR_RETURN(std::vector<int32_t> tokens,
                            tokenizer.Encode(text, add_special_tokens, &notes, max_tokens));
  if (notes.replaced > 0) {
    spdlog::warn("{}: {} ill-formed UTF-8 sequences were replaced by U+FFFD", name, notes.replaced);
  }
  if (notes.unknown_bytes > 0) {
    spdlog::warn("{}: the vocabulary has no token for {} bytes: the model does not see them", name,
                 notes.unknown_bytes);
  }
  return tokens;
}

absl::Status PromptMaker::Make(const std::string& name, BatchRequest* request) const {
  if (request->is_tokenized) return absl::OkStatus();
  if (request->chat) {
    if (chat_template_ == nullptr) {
      return absl::InvalidArgumentError("the model has no chat template: use /v1/completions");
    }
    const ChatInput& chat = *request->chat;
    LONGSPAN_ASSIGN_OR_RETURN(
        request->prompt_text,
        chat_template_->Render(chat.messages, chat.tools, chat.add_generation_prompt,
                               chat.template_kwargs));
    request->sampling.stop_token_ids = end_of_turn_ids_;
  }
  // A template writes the special tokens itself.
  absl::StatusOr<std::vector<int32_t>> tokens = EncodePrompt(
      tokenizer_, request->prompt_text, name, !request->chat.has_value(), max_model_len_);
  if (absl::IsOutOfRange(tokens.status())) {
    return absl::InvalidArgumentError(absl::StrCat("the prompt has more than ", max_model_len_,
                                                   " tokens, and exceeds max_model_len ",
                                                   max_model_len_));
  }
  LONGSPAN_RETURN_IF_ERROR(tokens.status());
  request->prompt_tokens = *std::move(tokens);
  if (request->chat && !request->states_max_tokens) {
    const int64_t left = max_model_len_ - static_cast<int64_t>(request->prompt_tokens.size());
    request->sampling.max_tokens = std::max<int64_t>(1, std::min(left, default_max_tokens_));
  }
  return absl::OkStatus();
}

}  // namespace longspan
