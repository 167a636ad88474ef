#include "runtime/answer_json.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <random>
#include <utility>

#include "absl/strings/str_format.h"

namespace longspan {
namespace {

using Json = nlohmann::ordered_json;

Json ChatToken(int32_t id, double logprob, const Tokenizer& tokenizer) {
  Json bytes = Json::array();
  for (const char byte : tokenizer.IdToBytes(id)) bytes.push_back(static_cast<uint8_t>(byte));
  return {{"token", tokenizer.IdToPiece(id)}, {"logprob", logprob}, {"bytes", std::move(bytes)}};
}

}  // namespace

std::string DumpJson(const Json& json, int indent) {
  return json.dump(indent, ' ', /*ensure_ascii=*/false, Json::error_handler_t::replace);
}

std::string UniqueHex() {
  static const uint64_t run = [] {
    std::random_device device;
    return (uint64_t{device()} << 32) | device();
  }();
  static std::atomic<uint32_t> count = 0;
  return absl::StrFormat("%016x%08x", run, count++);
}

int64_t UnixSeconds() {
  return std::chrono::duration_cast<std::chrono::seconds>(
             std::chrono::system_clock::now().time_since_epoch())
      .count();
}

int64_t CountCharacters(absl::string_view text) {
  return std::count_if(text.begin(), text.end(), [](char c) { return (c & 0xc0) != 0x80; });
}

const char* FinishReasonName(FinishReason reason) {
  return reason == FinishReason::kStop ? "stop" : "length";
}

void LogprobsBuilder::Add(int32_t token, const TokenLogprobs* logprobs) {
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

Json LogprobsBuilder::Take() {
  return {{"tokens", std::exchange(tokens_, Json::array())},
          {"token_logprobs", std::exchange(values_, Json::array())},
          {"top_logprobs", std::exchange(tops_, Json::array())},
          {"text_offset", std::exchange(offsets_, Json::array())}};
}

Json ChatTokenLogprobs(int32_t token, const TokenLogprobs& logprobs, const Tokenizer& tokenizer) {
  Json json = ChatToken(token, logprobs.logprob, tokenizer);
  Json& top = json["top_logprobs"] = Json::array();
  for (const auto& [id, value] : logprobs.top) top.push_back(ChatToken(id, value, tokenizer));
  return json;
}

Json UsageJson(int64_t prompt_tokens, int64_t completion_tokens) {
  return {{"prompt_tokens", prompt_tokens},
          {"completion_tokens", completion_tokens},
          {"total_tokens", prompt_tokens + completion_tokens}};
}

Json ErrorJson(const std::string& message, const std::string& type, const std::string& param,
               const std::string& code) {
  return {{"error",
           {{"message", message},
            {"type", type},
            {"param", param.empty() ? Json(nullptr) : Json(param)},
            {"code", code.empty() ? Json(nullptr) : Json(code)}}}};
}

}  // namespace longspan
