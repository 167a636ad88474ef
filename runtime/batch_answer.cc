// The JSON of batch lines as they are written: answers and errors.
#include <nlohmann/json.hpp>
#include <utility>

#include "absl/strings/str_cat.h"
#include "runtime/answer_json.h"
#include "runtime/batch.h"
#include "runtime/batch_json.h"

namespace longspan {
namespace {

using Json = nlohmann::ordered_json;

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
  return builder.Take();
}

Json TextChoice(const CompletionContext& context, const Completion& completion,
                const Tokenizer& tokenizer, int64_t index) {
  std::string text = completion.text;
  if (context.echo) {
    text.insert(0, context.echo->text.empty()
                       ? tokenizer.Decode(context.echo->tokens, /*skip_special_tokens=*/true)
                       : context.echo->text);
  }
  return {{"index", index},
          {"text", std::move(text)},
          {"finish_reason", FinishReasonName(completion.finish_reason)},
          {"logprobs", Logprobs(context, completion, tokenizer)}};
}

Json ChatLogprobs(const CompletionContext& context, const Completion& completion,
                  const Tokenizer& tokenizer) {
  if (!context.logprobs) return nullptr;
  Json content = Json::array();
  for (size_t i = 0; i < completion.logprobs.size(); ++i) {
    content.push_back(ChatTokenLogprobs(completion.tokens[i], completion.logprobs[i], tokenizer));
  }
  return {{"content", std::move(content)}, {"refusal", nullptr}};
}

Json ChatChoice(const CompletionContext& context, const Completion& completion,
                const Tokenizer& tokenizer, int64_t index) {
  return {{"index", index},
          {"message", {{"role", "assistant"}, {"content", completion.text}, {"refusal", nullptr}}},
          {"finish_reason", FinishReasonName(completion.finish_reason)},
          {"logprobs", ChatLogprobs(context, completion, tokenizer)}};
}

std::string Envelope(absl::string_view custom_id, int status, absl::string_view body,
                     const Json& error) {
  const std::string id = UniqueHex();
  const Json custom = custom_id.empty() ? Json(nullptr) : Json(std::string(custom_id));
  return absl::StrCat(kBatchLineStart, id, "\",\"custom_id\":", DumpJson(custom),
                      ",\"response\":{\"status_code\":", status, ",\"request_id\":\"req_", id,
                      "\",\"body\":", body, "},\"error\":", DumpJson(error), "}");
}

}  // namespace

Json ChoiceJson(const CompletionContext& context, const Completion& completion,
                const Tokenizer& tokenizer, int64_t index) {
  return context.is_chat ? ChatChoice(context, completion, tokenizer, index)
                         : TextChoice(context, completion, tokenizer, index);
}

std::string CompletionBody(const CompletionContext& context, const Completion& completion,
                           const Tokenizer& tokenizer) {
  const int64_t completion_tokens = static_cast<int64_t>(completion.tokens.size());
  const Json body = {
      {"id", absl::StrCat(context.is_chat ? "chatcmpl-" : "cmpl-", UniqueHex())},
      {"object", context.is_chat ? "chat.completion" : "text_completion"},
      {"created", UnixSeconds()},
      {"model", context.model},
      {"choices", Json::array({ChoiceJson(context, completion, tokenizer, 0)})},
      {"usage", UsageJson(context.prompt_tokens, completion_tokens)},
      {"metrics",
       {{"queue_s", completion.timings.queue_s},
        {"prefill_s", completion.timings.prefill_s},
        {"decode_s", completion.timings.decode_s}}},
  };
  return DumpJson(body);
}

std::string AnswerLine(absl::string_view custom_id, absl::string_view body) {
  return Envelope(custom_id, 200, body, nullptr);
}

std::string ErrorLine(absl::string_view custom_id, const BatchError& error) {
  const Json body = ErrorJson(error.message, "invalid_request_error", error.param, error.code);
  return Envelope(custom_id, 400, DumpJson(body),
                  {{"code", error.code}, {"message", error.message}});
}

}  // namespace longspan
