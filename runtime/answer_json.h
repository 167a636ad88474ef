#ifndef LONGSPAN_RUNTIME_ANSWER_JSON_H_
#define LONGSPAN_RUNTIME_ANSWER_JSON_H_

#include <cstdint>
#include <nlohmann/json.hpp>
#include <string>

#include "absl/strings/string_view.h"
#include "runtime/request.h"
#include "runtime/tokenizer.h"

// Pieces of the OpenAI API's answers, for batches and for the server.
namespace longspan {

// In one line, or with an indent in many; ill-formed UTF-8 becomes U+FFFD.
std::string DumpJson(const nlohmann::ordered_json& json, int indent = -1);

// 24 hexadecimal digits that no other call, of this or another process, returns.
std::string UniqueHex();

int64_t UnixSeconds();

// Unicode code points of well-formed UTF-8.
int64_t CountCharacters(absl::string_view text);

// "stop" or "length".
const char* FinishReasonName(FinishReason reason);

// The `logprobs` object of a text completion, token by token.
class LogprobsBuilder {
 public:
  explicit LogprobsBuilder(const Tokenizer& tokenizer)
      : tokenizer_(tokenizer), decoder_(tokenizer, /*skip_special_tokens=*/true) {}

  // A null `logprobs` is the first token of a prompt: nothing predicts it.
  void Add(int32_t token, const TokenLogprobs* logprobs);
  // What was added since the last call.
  nlohmann::ordered_json Take();

 private:
  const Tokenizer& tokenizer_;
  StreamDecoder decoder_;
  int64_t characters_ = 0;
  nlohmann::ordered_json tokens_ = nlohmann::ordered_json::array();
  nlohmann::ordered_json values_ = nlohmann::ordered_json::array();
  nlohmann::ordered_json tops_ = nlohmann::ordered_json::array();
  nlohmann::ordered_json offsets_ = nlohmann::ordered_json::array();
};

// An element of a chat's `logprobs.content`.
nlohmann::ordered_json ChatTokenLogprobs(int32_t token, const TokenLogprobs& logprobs,
                                         const Tokenizer& tokenizer);

// `usage` of an answer.
nlohmann::ordered_json UsageJson(int64_t prompt_tokens, int64_t completion_tokens);

// The body of an error. An empty `param` or `code` becomes null.
nlohmann::ordered_json ErrorJson(const std::string& message, const std::string& type,
                                 const std::string& param, const std::string& code);

}  // namespace longspan

#endif  // LONGSPAN_RUNTIME_ANSWER_JSON_H_
