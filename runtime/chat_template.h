#ifndef LONGSPAN_RUNTIME_CHAT_TEMPLATE_H_
#define LONGSPAN_RUNTIME_CHAT_TEMPLATE_H_

#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>

#include "absl/status/statusor.h"
#include "runtime/jinja/render_options.h"

namespace longspan {

// A model's chat template, which makes a prompt of messages as Hugging Face's apply_chat_template
// does. Templates are written in a subset of Jinja (runtime/jinja/); what it lacks is refused
// with the line. Parsed once, immutable and safe to share between threads.
class ChatTemplate {
 public:
  // Reads chat_template.jinja of a model's directory, else `chat_template` of its
  // tokenizer_config.json; from there come bos_token, eos_token and so on. NotFound: there is no
  // template.
  static absl::StatusOr<ChatTemplate> Load(const std::string& model_dir,
                                           jinja::RenderOptions options = {});
  // `variables`: an object of what the template may use besides a conversation.
  static absl::StatusOr<ChatTemplate> Parse(std::string_view source,
                                            const nlohmann::ordered_json& variables,
                                            jinja::RenderOptions options = {});

  // `messages`: an array of objects, at least one. `tools`: an array of objects, or null for none.
  // `extra`: an object of more variables (chat_template_kwargs), or null. InvalidArgument: the
  // input is malformed or the template refuses it, and says why. ResourceExhausted: one of the
  // limits is passed.
  absl::StatusOr<std::string> Render(const nlohmann::ordered_json& messages,
                                     const nlohmann::ordered_json& tools,
                                     bool add_generation_prompt,
                                     const nlohmann::ordered_json& extra) const;

 private:
  struct Parts;
  explicit ChatTemplate(std::shared_ptr<const Parts> parts) : parts_(std::move(parts)) {}

  std::shared_ptr<const Parts> parts_;
};

}  // namespace longspan

#endif  // LONGSPAN_RUNTIME_CHAT_TEMPLATE_H_
