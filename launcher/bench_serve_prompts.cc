#include "launcher/bench_serve_prompts.h"

#include <cerrno>
#include <cstring>
#include <fstream>
#include <nlohmann/json.hpp>
#include <random>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "kernels/base/status_macros.h"

namespace longspan {
namespace {

using Json = nlohmann::ordered_json;

constexpr int64_t kDefaultPrompts = 100;

constexpr absl::string_view kWords[] = {
    "time",     "year",    "people",      "way",    "day",        "man",       "thing",   "woman",
    "life",     "child",   "world",       "school", "state",      "family",    "student", "group",
    "country",  "problem", "hand",        "part",   "place",      "case",      "week",    "company",
    "system",   "program", "question",    "work",   "government", "number",    "night",   "point",
    "home",     "water",   "room",        "mother", "area",       "money",     "story",   "fact",
    "month",    "lot",     "right",       "study",  "book",       "eye",       "job",     "word",
    "business", "issue",   "side",        "kind",   "head",       "house",     "service", "friend",
    "father",   "power",   "hour",        "game",   "line",       "end",       "member",  "law",
    "car",      "city",    "community",   "name",   "president",  "team",      "minute",  "idea",
    "kid",      "body",    "information", "back",   "parent",     "face",      "others",  "level",
    "office",   "door",    "health",      "person", "art",        "war",       "history", "party",
    "result",   "change",  "morning",     "reason", "research",   "girl",      "guy",     "moment",
    "air",      "teacher", "force",       "food",   "good",       "new",       "first",   "last",
    "long",     "great",   "little",      "own",    "other",      "old",       "big",     "high",
    "small",    "large",   "next",        "early",  "young",      "important", "few",     "public",
    "bad",      "same",    "able"};

// The generator is the standard's to the last bit, its distributions are not.
void AppendWords(int64_t count, std::mt19937_64& random, std::string* text) {
  for (int64_t i = 0; i < count; ++i) {
    absl::StrAppend(text, text->empty() ? "" : " ", kWords[random() % std::size(kWords)]);
  }
}

Json UserMessage(Json content) {
  return Json::array({{{"role", "user"}, {"content", std::move(content)}}});
}

// The body that a line stands for, without what all get.
absl::StatusOr<Json> BodyOfLine(const std::string& line, bool is_chat) {
  Json json = Json::parse(line, nullptr, /*allow_exceptions=*/false);
  if (!json.is_object()) return absl::InvalidArgumentError("is not a JSON object");
  if (json.contains("body")) json = Json(json["body"]);  // of a batch file
  if (!json.is_object()) return absl::InvalidArgumentError("`body` is not a JSON object");
  const bool has_messages = json.contains("messages");
  if (has_messages && !is_chat) {
    return absl::InvalidArgumentError("has `messages`: add --endpoint /v1/chat/completions");
  }
  if (has_messages && (!json["messages"].is_array() || json["messages"].empty())) {
    return absl::InvalidArgumentError("`messages` is not a list of messages");
  }
  if (has_messages) return json;
  if (!json.contains("prompt")) {
    return absl::InvalidArgumentError(is_chat ? "has neither `messages` nor `prompt`"
                                              : "has no `prompt`");
  }
  const Json prompt = json["prompt"];
  if (!prompt.is_string() && (is_chat || !prompt.is_array())) {
    return absl::InvalidArgumentError(is_chat ? "`prompt` is not a text, as one of a chat must be"
                                              : "`prompt` is neither a text nor token ids");
  }
  // To nlohmann no string is empty.
  const bool is_empty =
      prompt.is_string() ? prompt.get_ref<const std::string&>().empty() : prompt.empty();
  if (is_empty) return absl::InvalidArgumentError("`prompt` is empty");
  if (is_chat) {
    json["messages"] = UserMessage(prompt);
    json.erase("prompt");
  }
  return json;
}

int64_t MaxTokens(const Json& body) {
  for (const char* key : {"max_completion_tokens", "max_tokens"}) {
    if (body.contains(key) && body[key].is_number_integer()) return body[key].get<int64_t>();
  }
  return 0;
}

ServeRequest Finish(const ServePrompts& prompts, Json body) {
  if (!prompts.model.empty() && (prompts.overrides_model || !body.contains("model"))) {
    body["model"] = prompts.model;
  }
  if (prompts.output_len) {
    body.erase("max_tokens");
    body.erase("max_completion_tokens");
    body[prompts.is_chat ? "max_completion_tokens" : "max_tokens"] = *prompts.output_len;
  }
  if (!body.contains("temperature")) body["temperature"] = 0;
  if (prompts.ignore_eos) body["ignore_eos"] = true;
  body["stream"] = true;
  body["stream_options"] = {{"include_usage", true}};
  // The name of a model, given on the command line, may be any bytes.
  return {body.dump(-1, ' ', false, Json::error_handler_t::replace), MaxTokens(body)};
}

}  // namespace

absl::StatusOr<std::vector<std::string>> ReadDataset(const std::string& path, bool is_chat) {
  std::ifstream file(path);
  std::vector<std::string> lines;
  std::string line;
  int64_t number = 0;
  while (std::getline(file, line)) {
    ++number;
    if (absl::StripAsciiWhitespace(line).empty()) continue;
    const absl::StatusOr<Json> body = BodyOfLine(line, is_chat);
    if (!body.ok()) {
      return absl::InvalidArgumentError(
          absl::StrCat(path, ":", number, ": ", body.status().message()));
    }
    lines.push_back(body->dump());
  }
  if (!file.eof()) {
    return absl::NotFoundError(absl::StrCat(path, ": cannot be read: ", strerror(errno)));
  }
  if (lines.empty()) return absl::InvalidArgumentError(absl::StrCat(path, ": has no lines"));
  return lines;
}

std::vector<ServeRequest> MakeServeRequests(const ServePrompts& prompts,
                                            const std::vector<std::string>& lines) {
  std::vector<ServeRequest> requests;
  if (!lines.empty()) {
    const int64_t count = prompts.num_prompts.value_or(static_cast<int64_t>(lines.size()));
    for (int64_t i = 0; i < count; ++i) {
      requests.push_back(Finish(prompts, Json::parse(lines[i % lines.size()])));
    }
    return requests;
  }
  std::mt19937_64 random(prompts.seed);
  std::string prefix;
  AppendWords(prompts.shared_prefix_len, random, &prefix);
  for (int64_t i = 0; i < prompts.num_prompts.value_or(kDefaultPrompts); ++i) {
    std::string text = prefix;
    AppendWords(prompts.input_len - prompts.shared_prefix_len, random, &text);
    Json body;
    if (prompts.is_chat) {
      body["messages"] = UserMessage(std::move(text));
    } else {
      body["prompt"] = std::move(text);
    }
    requests.push_back(Finish(prompts, std::move(body)));
  }
  return requests;
}

}  // namespace longspan
