// The JSON of batch lines: requests in, answers and errors out. Files are in batch.cc.
#include "runtime/batch_json.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <limits>
#include <nlohmann/json.hpp>
#include <random>
#include <utility>
#include <variant>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "runtime/batch.h"

namespace longspan {
namespace {

using Json = nlohmann::ordered_json;

constexpr size_t kMaxDepth = 16;
constexpr size_t kMaxCustomIdBytes = 1024;
constexpr size_t kMaxStops = 16;
constexpr int64_t kMaxLogprobs = 20;
constexpr int64_t kMaxGeneratedTokens = int64_t{1} << 31;
constexpr absl::string_view kUrl = "/v1/completions";

using Scalar = std::variant<std::nullptr_t, bool, int64_t, double, std::string>;

// Walks a JSON text and knows where it is: path_[i] is the key in the i-th open object, "" in an
// array. Nothing of the text is kept, so that its shape cannot exhaust memory or stack.
class JsonWalker : public nlohmann::json_sax<nlohmann::json> {
 public:
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
    malformed_ = absl::StrCat("not valid JSON at byte ", position, " of the line");
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

  std::string malformed_;
};

class RequestWalker final : public JsonWalker {
 public:
  BatchRequest Finish(bool well_formed);

 private:
  void Visit(Scalar value) override;
  void VisitContainer(bool is_array) override;
  void VisitKey() override;
  void VisitTopLevel(Scalar& value);
  void VisitBody(Scalar& value);
  void VisitElement(Scalar& value);

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
    if (text == nullptr || text->empty() || request_.sampling.stop.size() == kMaxStops) {
      return FailParam("stop", absl::StrCat("a text or a list of at most ", kMaxStops,
                                            " texts, none of them empty"));
    }
    request_.sampling.stop.push_back(std::move(*text));
  }

  BatchRequest request_;
  std::vector<std::string> seen_;  // keys of the line and of its body, the known ones
  bool has_prompt_ = false;
};

// What a body may hold. Those that are not read by name below change nothing at this value.
constexpr absl::string_view kBodyKeys[] = {"prompt",   "max_tokens", "temperature", "top_p",
                                           "seed",     "stop",       "ignore_eos",  "echo",
                                           "logprobs", "model",      "user"};
struct NeutralParam {
  absl::string_view name;
  absl::string_view value;
};
constexpr NeutralParam kNeutralParams[] = {{"n", "1"},
                                           {"best_of", "1"},
                                           {"stream", "false"},
                                           {"presence_penalty", "0"},
                                           {"frequency_penalty", "0"}};

const NeutralParam* FindNeutral(absl::string_view name) {
  for (const NeutralParam& param : kNeutralParams) {
    if (param.name == name) return &param;
  }
  return nullptr;
}

std::optional<double> Number(const Scalar& value) {
  if (const int64_t* integer = std::get_if<int64_t>(&value)) return static_cast<double>(*integer);
  if (const double* number = std::get_if<double>(&value)) return *number;
  return std::nullopt;
}

bool IsNeutral(const Scalar& value, absl::string_view neutral) {
  const bool* boolean = std::get_if<bool>(&value);
  if (neutral == "false") return boolean != nullptr && !*boolean;
  return Number(value) == (neutral == "1" ? 1.0 : 0.0);
}

void RequestWalker::VisitKey() {
  const bool in_body = path_.size() == 2 && path_[0] == "body";
  if (path_.size() != 1 && !in_body) return;
  const std::string& key = path_.back();
  if (in_body) {
    if (!std::count(std::begin(kBodyKeys), std::end(kBodyKeys), key) &&
        FindNeutral(key) == nullptr) {
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
  if (path_.empty()) {
    if (is_array) Fail("a line must be a JSON object");
  } else if (path_.size() == 1) {
    const std::string& key = path_[0];
    if (key == "body" && is_array) Fail("`body` must be an object");
    if (key == "custom_id" || key == "method" || key == "url") {
      Fail(absl::StrCat("`", key, "` must be text"));
    }
  } else if (path_[0] == "body") {
    if (is_array && At("body", "prompt")) {
      request_.is_tokenized = has_prompt_ = true;
    } else if (!is_array || !At("body", "stop")) {
      FailParam(path_[1],
                path_[1] == "prompt" ? "one text or one list of token ids" : "a single value");
    }
  }
}

void RequestWalker::Visit(Scalar value) {
  if (path_.empty()) return Fail("a line must be a JSON object");
  if (path_.size() == 1) return VisitTopLevel(value);
  if (path_[0] != "body" || request_.error) return;
  if (path_.size() == 2) return VisitBody(value);
  if (path_.size() == 3) return VisitElement(value);
}

void RequestWalker::VisitTopLevel(Scalar& value) {
  std::string* text = std::get_if<std::string>(&value);
  if (At("custom_id")) {
    if (text == nullptr || text->empty() || text->size() > kMaxCustomIdBytes) {
      return Fail(absl::StrCat("`custom_id` must be a text of 1 to ", kMaxCustomIdBytes, " bytes"));
    }
    request_.custom_id = std::move(*text);
  } else if (At("method") && (text == nullptr || *text != "POST")) {
    Fail("`method` must be \"POST\"");
  } else if (At("url") && (text == nullptr || *text != kUrl)) {
    Fail(absl::StrCat("`url` must be \"", kUrl, "\""));
  } else if (At("body")) {
    Fail("`body` must be an object");
  }
}

void RequestWalker::VisitBody(Scalar& value) {
  const std::string& param = path_[1];
  SamplingParams& sampling = request_.sampling;
  if (param == "prompt") {
    std::string* text = std::get_if<std::string>(&value);
    if (text == nullptr) return FailParam(param, "one text or one list of token ids");
    request_.prompt_text = std::move(*text);
    has_prompt_ = true;
    return;
  }
  if (std::holds_alternative<std::nullptr_t>(value)) return;  // the API's way to say "not set"
  if (param == "max_tokens") {
    Integer(param, value, 0, kMaxGeneratedTokens, &sampling.max_tokens);
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
  } else if (param == "logprobs") {
    Integer(param, value, 0, kMaxLogprobs, &sampling.logprobs.emplace(0));
  } else if (param == "model" || param == "user") {
    std::string* text = std::get_if<std::string>(&value);
    if (text == nullptr) return FailParam(param, "text");
    if (param == "model") request_.model = std::move(*text);
  } else if (const NeutralParam* neutral = FindNeutral(param)) {
    if (!IsNeutral(value, neutral->value)) FailParam(param, neutral->value);
  }
}

void RequestWalker::VisitElement(Scalar& value) {
  if (path_[1] == "stop") return AddStop(value);
  if (path_[1] != "prompt") return;
  const int64_t* id = std::get_if<int64_t>(&value);
  if (id == nullptr || *id < 0 || *id > std::numeric_limits<int32_t>::max()) {
    return FailParam("prompt", "one text or one list of token ids");
  }
  request_.prompt_tokens.push_back(static_cast<int32_t>(*id));
}

BatchRequest RequestWalker::Finish(bool well_formed) {
  if (!well_formed) {
    request_ = BatchRequest();
    Fail(malformed());
  }
  for (const absl::string_view key : {"custom_id", "method", "url", "body"}) {
    if (std::count(seen_.begin(), seen_.end(), key) == 0) {
      Fail(absl::StrCat("`", key, "` is missing"));
    }
  }
  if (!has_prompt_) Fail("`prompt` is missing", "prompt");
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

// Ids need only differ: between the lines of a file, and between runs that append to it.
std::string UniqueHex() {
  static const uint64_t run = [] {
    std::random_device device;
    return (uint64_t{device()} << 32) | device();
  }();
  static std::atomic<uint32_t> count = 0;
  return absl::StrFormat("%016x%08x", run, count++);
}

std::string Dump(const Json& json) {
  return json.dump(-1, ' ', /*ensure_ascii=*/false, Json::error_handler_t::replace);
}

int64_t CountCharacters(absl::string_view text) {
  return std::count_if(text.begin(), text.end(), [](char c) { return (c & 0xc0) != 0x80; });
}

// The API's `logprobs` object, token by token.
class LogprobsBuilder {
 public:
  explicit LogprobsBuilder(const Tokenizer& tokenizer)
      : tokenizer_(tokenizer), decoder_(tokenizer, /*skip_special_tokens=*/true) {}

  // A null `logprobs` is the first token of a prompt: nothing predicts it.
  void Add(int32_t token, const TokenLogprobs* logprobs) {
    tokens_.push_back(tokenizer_.IdToPiece(token));
    offsets_.push_back(characters_);
    characters_ += CountCharacters(decoder_.Push(token));
    if (logprobs == nullptr) {
      values_.push_back(nullptr);
      tops_.push_back(nullptr);
      return;
    }
    values_.push_back(logprobs->logprob);
    Json top = Json::object();
    for (const auto& [id, value] : logprobs->top) top[tokenizer_.IdToPiece(id)] = value;
    tops_.push_back(std::move(top));
  }

  Json Build() && {
    return {{"tokens", std::move(tokens_)},
            {"token_logprobs", std::move(values_)},
            {"top_logprobs", std::move(tops_)},
            {"text_offset", std::move(offsets_)}};
  }

 private:
  const Tokenizer& tokenizer_;
  StreamDecoder decoder_;
  int64_t characters_ = 0;
  Json tokens_ = Json::array();
  Json values_ = Json::array();
  Json tops_ = Json::array();
  Json offsets_ = Json::array();
};

Json Logprobs(const CompletionContext& context, const Completion& completion,
              const Tokenizer& tokenizer) {
  if (!context.logprobs) return nullptr;
  LogprobsBuilder builder(tokenizer);
  if (context.echo) {
    const std::vector<int32_t>& prompt = context.echo->tokens;
    for (size_t i = 0; i < prompt.size(); ++i) {
      const bool known = i > 0 && i <= completion.prompt_logprobs.size();
      builder.Add(prompt[i], known ? &completion.prompt_logprobs[i - 1] : nullptr);
    }
  }
  for (size_t i = 0; i < completion.tokens.size(); ++i) {
    const bool known = i < completion.logprobs.size();
    builder.Add(completion.tokens[i], known ? &completion.logprobs[i] : nullptr);
  }
  return std::move(builder).Build();
}

std::string Envelope(absl::string_view custom_id, int status, absl::string_view body,
                     const Json& error) {
  const std::string id = UniqueHex();
  const Json custom = custom_id.empty() ? Json(nullptr) : Json(std::string(custom_id));
  return absl::StrCat(kBatchLineStart, id, "\",\"custom_id\":", Dump(custom),
                      ",\"response\":{\"status_code\":", status, ",\"request_id\":\"req_", id,
                      "\",\"body\":", body, "},\"error\":", Dump(error), "}");
}

}  // namespace

BatchRequest ParseBatchLine(absl::string_view line) {
  RequestWalker walker;
  const bool well_formed = walker.Walk(line);
  return walker.Finish(well_formed);
}

std::optional<BatchOutputLine> ParseBatchOutputLine(absl::string_view line) {
  OutputWalker walker;
  if (!walker.Walk(line)) return std::nullopt;
  return walker.Finish();
}

std::string CompletionBody(const CompletionContext& context, const Completion& completion,
                           const Tokenizer& tokenizer) {
  std::string text = completion.text;
  if (context.echo) {
    text.insert(0, context.echo->text.empty()
                       ? tokenizer.Decode(context.echo->tokens, /*skip_special_tokens=*/true)
                       : context.echo->text);
  }
  const int64_t completion_tokens = static_cast<int64_t>(completion.tokens.size());
  const bool stopped = completion.finish_reason == FinishReason::kStop;
  const Json body = {
      {"id", absl::StrCat("cmpl-", UniqueHex())},
      {"object", "text_completion"},
      {"created", std::chrono::duration_cast<std::chrono::seconds>(
                      std::chrono::system_clock::now().time_since_epoch())
                      .count()},
      {"model", context.model},
      {"choices", Json::array({{{"index", 0},
                                {"text", std::move(text)},
                                {"finish_reason", stopped ? "stop" : "length"},
                                {"logprobs", Logprobs(context, completion, tokenizer)}}})},
      {"usage",
       {{"prompt_tokens", context.prompt_tokens},
        {"completion_tokens", completion_tokens},
        {"total_tokens", context.prompt_tokens + completion_tokens}}},
      {"metrics",
       {{"queue_s", completion.timings.queue_s},
        {"prefill_s", completion.timings.prefill_s},
        {"decode_s", completion.timings.decode_s}}},
  };
  return Dump(body);
}

std::string AnswerLine(absl::string_view custom_id, absl::string_view body) {
  return Envelope(custom_id, 200, body, nullptr);
}

std::string ErrorLine(absl::string_view custom_id, const BatchError& error) {
  const Json param = error.param.empty() ? Json(nullptr) : Json(error.param);
  const Json body = {{"error",
                      {{"message", error.message},
                       {"type", "invalid_request_error"},
                       {"param", param},
                       {"code", error.code}}}};
  return Envelope(custom_id, 400, Dump(body), {{"code", error.code}, {"message", error.message}});
}

}  // namespace longspan
