// The JSON of requests as it is read, batch lines and bodies of HTTP requests. Files are in
// batch.cc, answers in batch_answer.cc.
#include "runtime/batch_json.h"

#include <algorithm>
#include <limits>
#include <nlohmann/json.hpp>
#include <utility>
#include <variant>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/strip.h"
#include "runtime/batch.h"

namespace longspan {
namespace {

using Json = nlohmann::ordered_json;

constexpr size_t kMaxDepth = 32;
constexpr size_t kMaxCustomIdBytes = 1024;
constexpr size_t kMaxStops = 16;
constexpr size_t kMaxStopBytes = 1024;
constexpr int64_t kMaxChoices = 64;  // of a request, over all its prompts
constexpr int64_t kMaxLogprobs = 20;
constexpr int64_t kMaxGeneratedTokens = int64_t{1} << 31;
constexpr absl::string_view kUrl = "/v1/completions";
constexpr absl::string_view kChatUrl = "/v1/chat/completions";
// Of a chat's line, which becomes a document in memory; keys of one object, which are looked
// through one by one.
constexpr int64_t kMaxChatValues = 100'000;
constexpr int64_t kMaxChatKeys = 256;

using Scalar = std::variant<std::nullptr_t, bool, int64_t, double, std::string>;

// Walks a JSON text and knows where it is: path_[i] is the key in the i-th open object, "" in an
// array. Nothing of the text is kept, so that its shape cannot exhaust memory or stack.
class JsonWalker : public nlohmann::json_sax<nlohmann::json> {
 public:
  // `path`: where the text is in a document, `name` what it is called.
  explicit JsonWalker(std::vector<std::string> path = {}, absl::string_view name = "line")
      : path_(std::move(path)), name_(name) {}

  // False for malformed or too deep JSON; then malformed() says where.
  bool Walk(absl::string_view text) {
    return nlohmann::json::sax_parse(text.begin(), text.end(), this);
  }
  const std::string& malformed() const { return malformed_; }

  bool null() final { return Visit(nullptr), true; }
  bool boolean(bool value) final { return Visit(value), true; }
  bool number_integer(int64_t value) final { return Visit(value), true; }
  bool number_unsigned(uint64_t value) final {
    if (value <= std::numeric_limits<int64_t>::max()) {
      Visit(static_cast<int64_t>(value));
    } else {
      Visit(static_cast<double>(value));
    }
    return true;
  }
  bool number_float(double value, const std::string&) final { return Visit(value), true; }
  bool string(std::string& value) final { return Visit(std::move(value)), true; }
  bool binary(nlohmann::json::binary_t&) final { return false; }
  bool key(std::string& key) final {
    path_.back() = std::move(key);
    VisitKey();
    return true;
  }
  bool start_object(size_t) final { return Enter(/*is_array=*/false); }
  bool start_array(size_t) final { return Enter(/*is_array=*/true); }
  bool end_object() final { return path_.pop_back(), true; }
  bool end_array() final { return path_.pop_back(), true; }
  bool parse_error(size_t position, const std::string&,
                   const nlohmann::detail::exception& error) final {
    const absl::string_view what = error.what();
    malformed_ = absl::StrCat("not valid JSON at byte ", position, " of the ", name_);
    if (absl::StrContains(what, "UTF-8")) malformed_ += " (ill-formed UTF-8)";
    if (error.id == 406) malformed_ += " (number out of range)";
    return false;
  }

 protected:
  virtual void Visit(Scalar value) = 0;            // the value at path_
  virtual void VisitContainer(bool is_array) = 0;  // an object or array begins at path_
  virtual void VisitKey() {}                       // path_.back() is a new key

  bool At(absl::string_view key) const { return path_.size() == 1 && path_[0] == key; }
  bool At(absl::string_view outer, absl::string_view inner) const {
    return path_.size() == 2 && path_[0] == outer && path_[1] == inner;
  }

  std::vector<std::string> path_;

 private:
  bool Enter(bool is_array) {
    if (path_.size() == kMaxDepth) {
      malformed_ = absl::StrCat("JSON nested deeper than ", kMaxDepth);
      return false;
    }
    VisitContainer(is_array);
    path_.emplace_back();
    return true;
  }

  absl::string_view name_;
  std::string malformed_;
};

// What a body may hold, and at which URL. What has a neutral value and is not read by name below
// may have that value alone, as JSON, which changes nothing; null is neutral for all but the
// prompt.
enum class Url { kAny, kCompletions, kChat };
struct Param {
  absl::string_view name;
  Url url = Url::kAny;
  absl::string_view neutral = "";
};
constexpr Param kParams[] = {
    {"max_tokens"},
    {"temperature"},
    {"top_p"},
    {"top_k"},
    {"seed"},
    {"stop"},
    {"ignore_eos"},
    {"logprobs"},
    {"model"},
    {"user"},
    {"n", Url::kAny, "1"},
    {"stream", Url::kAny, "false"},
    {"presence_penalty", Url::kAny, "0"},
    {"frequency_penalty", Url::kAny, "0"},
    {"repetition_penalty", Url::kAny, "1"},
    {"length_penalty", Url::kAny, "1"},
    {"use_beam_search", Url::kAny, "false"},
    {"min_p", Url::kAny, "0"},
    {"min_tokens", Url::kAny, "0"},
    {"logit_bias", Url::kAny, "{}"},
    {"stop_token_ids", Url::kAny, "[]"},
    {"include_stop_str_in_output", Url::kAny, "false"},
    {"skip_special_tokens", Url::kAny, "true"},
    {"prompt", Url::kCompletions},
    {"echo", Url::kCompletions},
    {"best_of", Url::kCompletions, "1"},
    {"suffix", Url::kCompletions, "\"\""},
    {"messages", Url::kChat},
    {"tools", Url::kChat},
    {"tool_choice", Url::kChat},
    {"max_completion_tokens", Url::kChat},
    {"top_logprobs", Url::kChat},
    {"chat_template_kwargs", Url::kChat},
    {"add_generation_prompt", Url::kChat},
};
constexpr absl::string_view kChatParts[] = {"messages", "tools", "chat_template_kwargs"};

const Param* FindParam(absl::string_view name) {
  const auto* found = std::find_if(std::begin(kParams), std::end(kParams),
                                   [name](const Param& param) { return param.name == name; });
  return found == std::end(kParams) ? nullptr : found;
}

// Those that only a server reads.
constexpr absl::string_view kServedParams[] = {"stream_options", "attended"};
// `tool_choice: auto` lets the template show the tools, which is all that is done with them here.
constexpr absl::string_view kToolChoice = "auto";

class RequestWalker final : public JsonWalker {
 public:
  RequestWalker() = default;  // of a batch line
  // Of the body of an HTTP request: as a line's body, but several prompts and choices may be asked
  // for, and a stream.
  explicit RequestWalker(bool is_chat)
      : JsonWalker({"body"}, "body"), is_served_(true), is_chat_(is_chat) {}

  BatchRequest Finish(bool well_formed, absl::string_view line);

 private:
  void Visit(Scalar value) override;
  void VisitContainer(bool is_array) override;
  void VisitKey() override;
  void VisitTopLevel(Scalar& value);
  void VisitBody(Scalar& value);
  void VisitElement(Scalar& value);
  void CheckParams();
  void ReadChat(absl::string_view line);
  // What must stand where a list or an object, or an element of one, cannot.
  std::string Expected(absl::string_view param) const;
  // Whether path_ is within a part of the body that ReadChat reads.
  bool InChatPart() const;
  bool IsKnown(absl::string_view param) const {
    return FindParam(param) != nullptr ||
           (is_served_ &&
            std::count(std::begin(kServedParams), std::end(kServedParams), param) > 0);
  }

  // Only the first error is told; custom_id is read in any case.
  void Fail(std::string message, absl::string_view param = "") {
    if (!request_.error) request_.error = BatchError{std::move(message), std::string(param)};
  }
  void FailParam(absl::string_view param, absl::string_view expected) {
    Fail(absl::StrCat("`", param, "` must be ", expected), param);
  }
  void Integer(absl::string_view param, const Scalar& value, int64_t min, int64_t max,
               int64_t* field) {
    const int64_t* integer = std::get_if<int64_t>(&value);
    if (integer == nullptr || *integer < min || *integer > max) {
      return FailParam(param, absl::StrFormat("an integer from %d to %d", min, max));
    }
    *field = *integer;
  }
  void Boolean(absl::string_view param, const Scalar& value, bool* field) {
    const bool* boolean = std::get_if<bool>(&value);
    if (boolean == nullptr) return FailParam(param, "true or false");
    *field = *boolean;
  }
  void AddStop(Scalar& value) {
    std::string* text = std::get_if<std::string>(&value);
    if (text == nullptr || text->empty() || text->size() > kMaxStopBytes ||
        request_.sampling.stop.size() == kMaxStops) {
      return FailParam("stop", absl::StrCat("a text or a list of at most ", kMaxStops,
                                            " texts, none of them empty or longer than ",
                                            kMaxStopBytes, " bytes"));
    }
    request_.sampling.stop.push_back(std::move(*text));
  }

  BatchRequest request_;
  std::vector<std::string> seen_;  // keys of the line and of its body, the known ones
  bool has_prompt_ = false;
  const bool is_served_ = false;
  bool is_chat_ = false;
  bool add_generation_prompt_ = true;
  int64_t values_ = 0;            // of the line
  int64_t keys_[kMaxDepth] = {};  // of the open objects, so far
  int64_t most_keys_ = 0;         // of any object
  std::optional<bool> chat_logprobs_;
};

std::optional<double> Number(const Scalar& value) {
  if (const int64_t* integer = std::get_if<int64_t>(&value)) return static_cast<double>(*integer);
  if (const double* number = std::get_if<double>(&value)) return *number;
  return std::nullopt;
}

bool Equals(const Scalar& value, absl::string_view json) {
  if (const bool* boolean = std::get_if<bool>(&value)) return json == (*boolean ? "true" : "false");
  if (const auto* text = std::get_if<std::string>(&value)) return text->empty() && json == "\"\"";
  const std::optional<double> number = Number(value);
  double expected = 0;
  return number && absl::SimpleAtod(json, &expected) && *number == expected;
}

void RequestWalker::VisitKey() {
  const bool in_body = path_.size() == 2 && path_[0] == "body";
  most_keys_ = std::max(most_keys_, ++keys_[path_.size() - 1]);
  if (path_.size() != 1 && !in_body) return;
  const std::string& key = path_.back();
  if (in_body) {
    if (!IsKnown(key)) {
      const std::string shown = key.substr(0, 64);
      return Fail(absl::StrCat("unknown parameter `", shown, "`"), shown);
    }
  } else if (key != "custom_id" && key != "method" && key != "url" && key != "body") {
    return;
  }
  const std::string name = in_body ? absl::StrCat("body.", key) : key;
  if (std::count(seen_.begin(), seen_.end(), name) > 0) {
    return Fail(absl::StrCat("`", name, "` is stated twice"), in_body ? key : "");
  }
  seen_.push_back(name);
}

void RequestWalker::VisitContainer(bool is_array) {
  ++values_;
  keys_[path_.size()] = 0;
  if (path_.empty()) {
    if (is_array) Fail("a line must be a JSON object");
  } else if (is_served_ && path_.size() == 1) {
    if (is_array) Fail("the body must be a JSON object");
  } else if (path_.size() == 1) {
    const std::string& key = path_[0];
    if (key == "body" && is_array) Fail("`body` must be an object");
    if (key == "custom_id" || key == "method" || key == "url") {
      Fail(absl::StrCat("`", key, "` must be text"));
    }
  } else if (path_[0] == "body" && !InChatPart()) {
    if (is_array && At("body", "prompt")) {
      request_.is_tokenized = has_prompt_ = true;
    } else if (is_served_ && !is_array && At("body", "stream_options")) {
      // its members are read one by one
    } else if (path_.size() == 2 && Expected(path_[1]) == (is_array ? "[]" : "{}")) {
      // empty, or its first element is refused
    } else if (!is_array || !At("body", "stop")) {
      FailParam(path_[1], Expected(path_[1]));
    }
  }
}

void RequestWalker::Visit(Scalar value) {
  ++values_;
  if (path_.empty()) return Fail("a line must be a JSON object");
  if (path_.size() == 1) return VisitTopLevel(value);
  if (path_[0] != "body" || request_.error || InChatPart()) return;
  if (path_.size() == 2) return VisitBody(value);
  if (path_.size() == 3) return VisitElement(value);
}

void RequestWalker::VisitTopLevel(Scalar& value) {
  std::string* text = std::get_if<std::string>(&value);
  if (is_served_) {
    Fail("the body must be a JSON object");
  } else if (At("custom_id")) {
    if (text == nullptr || text->empty() || text->size() > kMaxCustomIdBytes) {
      return Fail(absl::StrCat("`custom_id` must be a text of 1 to ", kMaxCustomIdBytes, " bytes"));
    }
    request_.custom_id = std::move(*text);
  } else if (At("method") && (text == nullptr || *text != "POST")) {
    Fail("`method` must be \"POST\"");
  } else if (At("url")) {
    is_chat_ = text != nullptr && *text == kChatUrl;
    if (is_chat_ || (text != nullptr && *text == kUrl)) return;
    Fail(absl::StrCat("`url` must be \"", kUrl, "\" or \"", kChatUrl, "\""));
  } else if (At("body")) {
    Fail("`body` must be an object");
  }
}

void RequestWalker::VisitBody(Scalar& value) {
  const std::string& param = path_[1];
  SamplingParams& sampling = request_.sampling;
  if (param == "prompt") {
    std::string* text = std::get_if<std::string>(&value);
    if (text == nullptr) return FailParam(param, Expected(param));
    request_.prompt_text = std::move(*text);
    has_prompt_ = true;
    return;
  }
  if (std::holds_alternative<std::nullptr_t>(value)) return;  // the API's way to say "not set"
  if (param == "max_tokens" || param == "max_completion_tokens") {
    Integer(param, value, 0, kMaxGeneratedTokens, &sampling.max_tokens);
    request_.states_max_tokens = true;
  } else if (param == "temperature") {
    const std::optional<double> number = Number(value);
    if (!number || !(*number >= 0 && *number <= 2)) return FailParam(param, "a number from 0 to 2");
    sampling.temperature = *number;
  } else if (param == "top_p") {
    const std::optional<double> number = Number(value);
    if (!number || !(*number > 0 && *number <= 1)) {
      return FailParam(param, "a number above 0 and at most 1");
    }
    sampling.top_p = *number;
  } else if (param == "top_k") {
    Integer(param, value, -1, std::numeric_limits<int32_t>::max(), &sampling.top_k);
  } else if (is_served_ && param == "n") {
    Integer(param, value, 1, kMaxChoices, &request_.n);
  } else if (is_served_ && param == "stream") {
    Boolean(param, value, &request_.stream);
  } else if (param == "attended") {
    Boolean(param, value, &sampling.attended);
  } else if (param == "stream_options") {
    FailParam(param, "an object");
  } else if (param == "seed") {
    int64_t seed = 0;
    Integer(param, value, std::numeric_limits<int64_t>::min(), std::numeric_limits<int64_t>::max(),
            &seed);
    sampling.seed = static_cast<uint64_t>(seed);
  } else if (param == "stop") {
    AddStop(value);
  } else if (param == "ignore_eos") {
    Boolean(param, value, &sampling.ignore_eos);
  } else if (param == "echo") {
    Boolean(param, value, &sampling.echo);
  } else if (const bool* boolean = std::get_if<bool>(&value);
             param == "logprobs" && boolean != nullptr) {
    chat_logprobs_ = *boolean;
  } else if (param == "logprobs" || param == "top_logprobs") {
    Integer(param, value, 0, kMaxLogprobs, &sampling.logprobs.emplace(0));
  } else if (param == "add_generation_prompt") {
    Boolean(param, value, &add_generation_prompt_);
  } else if (param == "tool_choice") {
    const std::string* text = std::get_if<std::string>(&value);
    if (text == nullptr || *text != kToolChoice)
      FailParam(param, absl::StrCat("\"", kToolChoice, "\""));
  } else if (param == "model" || param == "user") {
    std::string* text = std::get_if<std::string>(&value);
    if (text == nullptr) return FailParam(param, "text");
    if (param == "model") request_.model = std::move(*text);
  } else if (const Param* known = FindParam(param); known != nullptr && !known->neutral.empty()) {
    if (!Equals(value, known->neutral)) FailParam(param, known->neutral);
  }
}

void RequestWalker::VisitElement(Scalar& value) {
  if (path_[1] == "stop") return AddStop(value);
  if (path_[1] == "stream_options") {
    if (path_[2] != "include_usage") {
      return Fail(absl::StrCat("unknown option `", path_[2].substr(0, 64), "`"), path_[1]);
    }
    return Boolean("stream_options.include_usage", value, &request_.include_usage);
  }
  if (path_[1] != "prompt") return FailParam(path_[1], Expected(path_[1]));
  std::string* text = std::get_if<std::string>(&value);
  if (is_served_ && text != nullptr && request_.prompt_tokens.empty() &&
      static_cast<int64_t>(request_.more_prompts.size()) < kMaxChoices) {
    const bool is_first = std::exchange(request_.is_tokenized, false);
    (is_first ? request_.prompt_text : request_.more_prompts.emplace_back()) = std::move(*text);
    return;
  }
  constexpr int32_t kMaxId = std::numeric_limits<int32_t>::max();
  const int64_t* id = std::get_if<int64_t>(&value);
  if (request_.is_tokenized && id != nullptr && *id >= 0 && *id <= kMaxId) {
    return request_.prompt_tokens.push_back(static_cast<int32_t>(*id));
  }
  const std::optional<double> number = Number(value);
  if (!request_.is_tokenized || !number) return FailParam("prompt", Expected("prompt"));
  const std::string shown = id == nullptr ? Json(*number).dump() : absl::StrCat(*id);
  Fail(
      absl::StrCat("`prompt` has ", shown, ", which is no token id: an integer from 0 to ", kMaxId),
      "prompt");
}

std::string RequestWalker::Expected(absl::string_view param) const {
  if (param == "prompt") {
    return is_served_ ? absl::StrCat("one text, one list of token ids, or a list of at most ",
                                     kMaxChoices, " texts")
                      : "one text or one list of token ids";
  }
  const Param* known = FindParam(param);
  const bool is_empty = known != nullptr && (known->neutral == "{}" || known->neutral == "[]");
  return is_empty ? std::string(known->neutral) : "a single value";
}

bool RequestWalker::InChatPart() const {
  return path_.size() >= 2 && path_[0] == "body" &&
         std::count(std::begin(kChatParts), std::end(kChatParts), path_[1]) > 0;
}

// Parameters of the other URL, and `logprobs`, which is a number there and true or false here.
void RequestWalker::CheckParams() {
  for (const std::string& name : seen_) {
    absl::string_view key = name;
    if (!absl::ConsumePrefix(&key, "body.")) continue;
    const Param* param = FindParam(key);
    const Url url = param == nullptr ? Url::kAny : param->url;
    if (url == Url::kAny || (url == Url::kChat) == is_chat_) continue;
    return Fail(absl::StrCat("`", key, "` is no parameter of ", is_chat_ ? kChatUrl : kUrl), key);
  }
  const auto states = [this](absl::string_view name) {
    return std::count(seen_.begin(), seen_.end(), name) > 0;
  };
  if (states("body.max_tokens") && states("body.max_completion_tokens")) {
    return Fail("`max_tokens` and `max_completion_tokens` are the same: state one",
                "max_completion_tokens");
  }
  const bool stated = states("body.logprobs");
  std::optional<int64_t>& logprobs = request_.sampling.logprobs;
  if (!is_chat_) {
    if (chat_logprobs_.has_value()) {
      FailParam("logprobs", absl::StrFormat("an integer from 0 to %d", kMaxLogprobs));
    }
  } else if (chat_logprobs_.value_or(false)) {
    logprobs = logprobs.value_or(0);
  } else if (stated && !chat_logprobs_.has_value() && logprobs.has_value()) {
    FailParam("logprobs", "true or false");
  } else if (logprobs.has_value()) {
    Fail("`top_logprobs` needs `logprobs` to be true", "top_logprobs");
  }
}

// Text, or its parts joined: [{"type": "text", "text": ...}, ...].
bool FlattenContent(Json* message) {
  const auto content = message->find("content");
  if (content == message->end() || content->is_null() || content->is_string()) return true;
  if (!content->is_array()) return false;
  std::string text;
  for (const Json& part : *content) {
    if (!part.is_object() || part.value("type", Json()) != "text" || !part.contains("text") ||
        !part["text"].is_string()) {
      return false;
    }
    absl::StrAppend(&text, part["text"].get_ref<const std::string&>());
  }
  *content = std::move(text);
  return true;
}

void RequestWalker::ReadChat(absl::string_view line) {
  if (values_ >= kMaxChatValues || most_keys_ > kMaxChatKeys) {
    return Fail(absl::StrCat("a chat must have fewer than ", kMaxChatValues,
                             " values, and objects of at most ", kMaxChatKeys, " keys"),
                "messages");
  }
  // Depth and number of values are known to be bounded.
  Json body = Json::parse(line.begin(), line.end(), nullptr, /*allow_exceptions=*/false);
  if (!is_served_) body = Json(std::move(body["body"]));
  ChatInput& chat = request_.chat.emplace();
  chat.add_generation_prompt = add_generation_prompt_;
  chat.messages = std::move(body["messages"]);
  if (!chat.messages.is_array()) return FailParam("messages", "a list of messages");
  for (Json& message : chat.messages) {
    if (!message.is_object() || !message.contains("role") || !message["role"].is_string()) {
      return FailParam("messages", "objects with a `role`");
    }
    if (!FlattenContent(&message)) {
      return FailParam("messages", "messages whose `content` is text, or a list of text parts");
    }
  }
  chat.tools = std::move(body["tools"]);
  const bool tools_are_objects =
      chat.tools.is_array() && std::all_of(chat.tools.begin(), chat.tools.end(),
                                           [](const Json& tool) { return tool.is_object(); });
  if (!chat.tools.is_null() && !tools_are_objects) return FailParam("tools", "a list of objects");
  if (Json& kwargs = body["chat_template_kwargs"]; !kwargs.is_null()) {
    if (!kwargs.is_object()) return FailParam("chat_template_kwargs", "an object");
    chat.template_kwargs = std::move(kwargs);
  }
}

BatchRequest RequestWalker::Finish(bool well_formed, absl::string_view line) {
  if (!well_formed) {
    request_ = BatchRequest();
    Fail(malformed());
  }
  for (const absl::string_view key : {"custom_id", "method", "url", "body"}) {
    if (!is_served_ && std::count(seen_.begin(), seen_.end(), key) == 0) {
      Fail(absl::StrCat("`", key, "` is missing"));
    }
  }
  if (!request_.error) CheckParams();
  const bool has_messages = std::count(seen_.begin(), seen_.end(), "body.messages") > 0;
  if (is_chat_ && !has_messages) Fail("`messages` is missing", "messages");
  if (!is_chat_ && !has_prompt_) Fail("`prompt` is missing", "prompt");
  if (request_.n * static_cast<int64_t>(1 + request_.more_prompts.size()) > kMaxChoices) {
    Fail(absl::StrCat("prompts times `n` must be at most ", kMaxChoices), "n");
  }
  if (request_.n > 1 && request_.sampling.temperature == 0) {
    Fail("`n` above 1 needs a `temperature` above 0: the choices would be the same", "n");
  }
  if (request_.include_usage && !request_.stream) {
    Fail("`stream_options` needs `stream` to be true", "stream_options");
  }
  if (is_chat_ && !request_.error) ReadChat(line);
  if (request_.error) request_.chat.reset();
  return std::move(request_);
}

class OutputWalker final : public JsonWalker {
 public:
  std::optional<BatchOutputLine> Finish() {
    if (!has_id_ || !has_custom_id_ || !has_response_ || !has_error_) return std::nullopt;
    line_.is_answer = status_ == 200 && error_is_null_ && !line_.custom_id.empty();
    return std::move(line_);
  }

 private:
  void Visit(Scalar value) override {
    std::string* text = std::get_if<std::string>(&value);
    const bool is_null = std::holds_alternative<std::nullptr_t>(value);
    if (At("id")) has_id_ = text != nullptr;
    if (At("custom_id")) {
      has_custom_id_ = text != nullptr || is_null;
      if (text != nullptr) line_.custom_id = std::move(*text);
    }
    if (At("response")) has_response_ = is_null;
    if (At("error")) has_error_ = error_is_null_ = is_null;
    if (At("response", "status_code")) {
      const int64_t* status = std::get_if<int64_t>(&value);
      status_ = status == nullptr ? 0 : *status;
    }
  }
  void VisitContainer(bool is_array) override {
    if (At("response")) has_response_ = !is_array;
    if (At("error")) has_error_ = !is_array;
  }

  BatchOutputLine line_;
  int64_t status_ = 0;
  bool has_id_ = false;
  bool has_custom_id_ = false;
  bool has_response_ = false;
  bool has_error_ = false;
  bool error_is_null_ = false;
};

}  // namespace

BatchRequest ParseBatchLine(absl::string_view line) {
  RequestWalker walker;
  const bool well_formed = walker.Walk(line);
  return walker.Finish(well_formed, line);
}

BatchRequest ParseRequestBody(absl::string_view body, bool is_chat) {
  RequestWalker walker(is_chat);
  const bool well_formed = walker.Walk(body);
  return walker.Finish(well_formed, body);
}

std::optional<BatchOutputLine> ParseBatchOutputLine(absl::string_view line) {
  OutputWalker walker;
  if (!walker.Walk(line)) return std::nullopt;
  return walker.Finish();
}

}  // namespace longspan
