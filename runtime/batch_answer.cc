// The JSON of batch lines as they are written: answers and errors.
#include <algorithm>
#include <atomic>
#include <chrono>
#include <nlohmann/json.hpp>
#include <random>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "runtime/batch.h"
#include "runtime/batch_json.h"

namespace longspan {
namespace {

using Json = nlohmann::ordered_json;

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

const char* FinishReasonName(const Completion& completion) {
  return completion.finish_reason == FinishReason::kStop ? "stop" : "length";
}

Json TextChoice(const CompletionContext& context, const Completion& completion,
                const Tokenizer& tokenizer) {
  std::string text = completion.text;
  if (context.echo) {
    text.insert(0, context.echo->text.empty()
                       ? tokenizer.Decode(context.echo->tokens, /*skip_special_tokens=*/true)
                       : context.echo->text);
  }
  return {{"index", 0},
          {"text", std::move(text)},
          {"finish_reason", FinishReasonName(completion)},
          {"logprobs", Logprobs(context, completion, tokenizer)}};
}

Json ChatToken(int32_t id, double logprob, const Tokenizer& tokenizer) {
  Json bytes = Json::array();
  for (const char byte : tokenizer.IdToBytes(id)) bytes.push_back(static_cast<uint8_t>(byte));
  return {{"token", tokenizer.IdToPiece(id)}, {"logprob", logprob}, {"bytes", std::move(bytes)}};
}

Json ChatLogprobs(const CompletionContext& context, const Completion& completion,
                  const Tokenizer& tokenizer) {
  if (!context.logprobs) return nullptr;
  Json content = Json::array();
  for (size_t i = 0; i < completion.logprobs.size(); ++i) {
    const TokenLogprobs& logprobs = completion.logprobs[i];
    Json token = ChatToken(completion.tokens[i], logprobs.logprob, tokenizer);
    Json& top = token["top_logprobs"] = Json::array();
    for (const auto& [id, value] : logprobs.top) top.push_back(ChatToken(id, value, tokenizer));
    content.push_back(std::move(token));
  }
  return {{"content", std::move(content)}, {"refusal", nullptr}};
}

Json ChatChoice(const CompletionContext& context, const Completion& completion,
                const Tokenizer& tokenizer) {
  return {{"index", 0},
          {"message", {{"role", "assistant"}, {"content", completion.text}, {"refusal", nullptr}}},
          {"finish_reason", FinishReasonName(completion)},
          {"logprobs", ChatLogprobs(context, completion, tokenizer)}};
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

std::string CompletionBody(const CompletionContext& context, const Completion& completion,
                           const Tokenizer& tokenizer) {
  const int64_t completion_tokens = static_cast<int64_t>(completion.tokens.size());
  const Json body = {
      {"id", absl::StrCat(context.is_chat ? "chatcmpl-" : "cmpl-", UniqueHex())},
      {"object", context.is_chat ? "chat.completion" : "text_completion"},
      {"created", std::chrono::duration_cast<std::chrono::seconds>(
                      std::chrono::system_clock::now().time_since_epoch())
                      .count()},
      {"model", context.model},
      {"choices", Json::array({context.is_chat ? ChatChoice(context, completion, tokenizer)
                                               : TextChoice(context, completion, tokenizer)})},
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
