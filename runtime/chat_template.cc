#include "runtime/chat_template.h"

#include <filesystem>
#include <optional>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "kernels/base/status_macros.h"
#include "runtime/jinja/eval.h"
#include "runtime/jinja/parser.h"
#include "runtime/json_file.h"
#include "runtime/mapped_file.h"

namespace longspan {

struct ChatTemplate::Parts {
  jinja::Body body;
  std::optional<jinja::Body> tool_use;  // with tools, this one instead
  nlohmann::ordered_json variables;
  jinja::RenderOptions options;
};

namespace {

using Json = nlohmann::ordered_json;

constexpr size_t kMaxConfigBytes = 64 << 20;
constexpr const char* kSpecialTokens[] = {"bos_token", "eos_token", "unk_token", "sep_token",
                                          "pad_token", "cls_token", "mask_token"};

// ---- Files of a model ----

bool Exists(const std::string& path) {
  std::error_code ignored;
  return std::filesystem::exists(path, ignored);
}

absl::StatusOr<std::string> ReadTemplate(const std::string& path) {
  LONGSPAN_ASSIGN_OR_RETURN(const MappedFile file, MappedFile::Open(path));
  const auto bytes = file.bytes();
  return std::string(reinterpret_cast<const char*>(bytes.data()), bytes.size());
}

// An object of a file, empty if there is no such file.
absl::StatusOr<nlohmann::json> ReadOptional(const std::string& path) {
  if (!Exists(path)) return nlohmann::json::object();
  return ReadJsonObject(path, kMaxConfigBytes);
}

// Adds the special tokens of an object, each a string or an AddedToken's object.
absl::Status AddTokens(const nlohmann::json& object, const std::string& path, Json& variables) {
  for (const char* name : kSpecialTokens) {
    const auto it = object.find(name);
    if (it == object.end() || it->is_null()) continue;
    const bool added_token = it->is_object() && it->contains("content");
    const nlohmann::json token = added_token ? (*it)["content"] : *it;
    if (!token.is_string()) {
      return absl::InvalidArgumentError(
          absl::StrCat(path, ": expected a string or an object with `content` as ", name));
    }
    variables[name] = token.get<std::string>();
  }
  return absl::OkStatus();
}

struct Sources {
  std::optional<std::string> main;
  std::optional<std::string> tool_use;
};

// `chat_template` of a tokenizer_config.json: a string, or a list of named ones.
absl::Status ReadConfigured(const nlohmann::json& value, const std::string& path,
                            Sources& sources) {
  if (value.is_string()) {
    sources.main = value.get<std::string>();
    return absl::OkStatus();
  }
  const auto invalid = [&path] {
    return absl::InvalidArgumentError(absl::StrCat(
        path,
        ": expected a string, or a list of objects with name and template, as chat_template"));
  };
  if (!value.is_array()) return invalid();
  for (const nlohmann::json& entry : value) {
    const bool named = entry.is_object() && entry.contains("name") && entry.contains("template") &&
                       entry["name"].is_string() && entry["template"].is_string();
    if (!named) return invalid();
    const std::string name = entry["name"].get<std::string>();
    if (name == "default") sources.main = entry["template"].get<std::string>();
    if (name == "tool_use") sources.tool_use = entry["template"].get<std::string>();
  }
  if (!sources.main) {
    return absl::InvalidArgumentError(
        absl::StrCat(path, ": chat_template lists no template of the name `default`"));
  }
  return absl::OkStatus();
}

// Files win over what is configured, all or nothing, as in transformers.
absl::StatusOr<Sources> FindSources(const std::string& dir, const nlohmann::json& config) {
  Sources sources;
  const std::string main = dir + "/chat_template.jinja";
  const std::string tool_use = dir + "/additional_chat_templates/tool_use.jinja";
  if (Exists(main)) {
    LONGSPAN_ASSIGN_OR_RETURN(sources.main, ReadTemplate(main));
  }
  if (Exists(tool_use)) {
    LONGSPAN_ASSIGN_OR_RETURN(sources.tool_use, ReadTemplate(tool_use));
  }
  const std::string config_path = dir + "/tokenizer_config.json";
  const auto configured = config.find("chat_template");
  if (!sources.main && !sources.tool_use && configured != config.end() && !configured->is_null()) {
    LONGSPAN_RETURN_IF_ERROR(ReadConfigured(*configured, config_path, sources));
  }
  if (!sources.main) {
    return absl::NotFoundError(absl::StrCat(
        "the model has no chat template: neither ", main, " nor `chat_template` in ", config_path,
        "; put the template of the model's makers there, or send a prompt instead of messages"));
  }
  return sources;
}

absl::Status InFile(const absl::Status& status, const std::string& dir) {
  return absl::Status(status.code(), absl::StrCat(dir, ": ", status.message()));
}

// ---- Input of a rendering ----

absl::Status CheckObjects(const Json& list, const char* name) {
  if (!list.is_array()) {
    return absl::InvalidArgumentError(absl::StrCat(name, ": expected an array"));
  }
  for (size_t i = 0; i < list.size(); ++i) {
    if (!list[i].is_object()) {
      return absl::InvalidArgumentError(
          absl::StrCat(name, "[", i, "]: expected an object, found ", list[i].type_name()));
    }
  }
  return absl::OkStatus();
}

// A message as transformers gives it to a template: without null values, and with what a model
// thought under both names that templates read.
Json NormalMessage(const Json& message) {
  Json present = Json::object();
  for (const auto& item : message.items()) {
    if (!item.value().is_null()) present[item.key()] = item.value();
  }
  for (const char* name : {"reasoning_content", "thinking", "reasoning"}) {
    const auto it = present.find(name);
    if (it == present.end()) continue;
    const Json reasoning = *it;
    Json aliased = {{"thinking", reasoning}};
    for (const auto& item : present.items()) aliased[item.key()] = item.value();
    aliased["reasoning_content"] = reasoning;
    return aliased;
  }
  return present;
}

absl::Status AddExtra(const Json& extra, Json& variables) {
  if (extra.is_null()) return absl::OkStatus();
  if (!extra.is_object()) {
    return absl::InvalidArgumentError("chat_template_kwargs: expected an object");
  }
  for (const auto& item : extra.items()) {
    for (const char* taken : {"messages", "tools", "add_generation_prompt", "conversation",
                              "chat_template", "continue_final_message"}) {
      if (item.key() == taken) {
        return absl::InvalidArgumentError(
            absl::StrCat("chat_template_kwargs: `", taken, "` cannot be set there"));
      }
    }
    variables[item.key()] = item.value();
  }
  return absl::OkStatus();
}

absl::StatusOr<std::string> RenderParts(const jinja::Body& body, const Json& defaults,
                                        const jinja::RenderOptions& options, const Json& messages,
                                        const Json& tools, bool add_generation_prompt,
                                        const Json& extra) {
  LONGSPAN_RETURN_IF_ERROR(CheckObjects(messages, "messages"));
  if (messages.empty()) {
    return absl::InvalidArgumentError("messages: expected at least one message");
  }
  if (!tools.is_null()) LONGSPAN_RETURN_IF_ERROR(CheckObjects(tools, "tools"));
  Json variables = defaults;
  variables["documents"] = nullptr;
  LONGSPAN_RETURN_IF_ERROR(AddExtra(extra, variables));
  Json& normal = variables["messages"] = Json::array();
  for (const Json& message : messages) normal.push_back(NormalMessage(message));
  variables["tools"] = tools;
  variables["add_generation_prompt"] = add_generation_prompt;
  return jinja::Render(body, variables, options);
}

}  // namespace

absl::StatusOr<ChatTemplate> ChatTemplate::Parse(std::string_view source,
                                                 const nlohmann::ordered_json& variables,
                                                 jinja::RenderOptions options) {
  auto parts = std::make_shared<Parts>();
  LONGSPAN_ASSIGN_OR_RETURN(parts->body, jinja::Parse(source));
  parts->variables = variables.is_object() ? variables : Json::object();
  parts->options = std::move(options);
  return ChatTemplate(std::move(parts));
}

absl::StatusOr<ChatTemplate> ChatTemplate::Load(const std::string& model_dir,
                                                jinja::RenderOptions options) {
  const std::string config_path = model_dir + "/tokenizer_config.json";
  LONGSPAN_ASSIGN_OR_RETURN(const nlohmann::json config, ReadOptional(config_path));
  LONGSPAN_ASSIGN_OR_RETURN(const Sources sources, FindSources(model_dir, config));
  auto parts = std::make_shared<Parts>();
  absl::StatusOr<jinja::Body> body = jinja::Parse(*sources.main);
  if (!body.ok()) return InFile(body.status(), model_dir);
  parts->body = *std::move(body);
  if (sources.tool_use) {
    absl::StatusOr<jinja::Body> tool_use = jinja::Parse(*sources.tool_use);
    if (!tool_use.ok()) return InFile(tool_use.status(), model_dir);
    parts->tool_use = *std::move(tool_use);
  }
  parts->variables = Json::object();
  LONGSPAN_RETURN_IF_ERROR(AddTokens(config, config_path, parts->variables));
  // The older file counts where the configuration does not list the added tokens itself.
  if (!config.contains("added_tokens_decoder")) {
    const std::string map_path = model_dir + "/special_tokens_map.json";
    LONGSPAN_ASSIGN_OR_RETURN(const nlohmann::json map, ReadOptional(map_path));
    LONGSPAN_RETURN_IF_ERROR(AddTokens(map, map_path, parts->variables));
  }
  parts->options = std::move(options);
  return ChatTemplate(std::move(parts));
}

absl::StatusOr<std::string> ChatTemplate::Render(const nlohmann::ordered_json& messages,
                                                 const nlohmann::ordered_json& tools,
                                                 bool add_generation_prompt,
                                                 const nlohmann::ordered_json& extra) const {
  const jinja::Body& body = parts_->tool_use && !tools.is_null() ? *parts_->tool_use : parts_->body;
  try {
    return RenderParts(body, parts_->variables, parts_->options, messages, tools,
                       add_generation_prompt, extra);
  } catch (const std::exception& e) {  // of the JSON library, or no memory is left
    return absl::InternalError(absl::StrCat("cannot render the chat template: ", e.what()));
  }
}

}  // namespace longspan
