#include "runtime/chat_prompt.h"

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

}  // namespace longspan
