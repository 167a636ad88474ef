#ifndef LONGSPAN_RUNTIME_SERVER_CALL_H_
#define LONGSPAN_RUNTIME_SERVER_CALL_H_

#include <spdlog/logger.h>

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>

#include "absl/status/status.h"
#include "runtime/chat_prompt.h"
#include "runtime/chat_template.h"
#include "runtime/clock.h"
#include "runtime/engine.h"
#include "runtime/server/answer_threads.h"
#include "runtime/server/api_keys.h"
#include "runtime/server/http_server.h"
#include "runtime/server/metrics.h"
#include "runtime/server/serving_loop.h"

namespace longspan {

// What requests need of the server. The engine's parts are there when the model is loaded.
struct ServerContext {
  std::string model_name;
  std::optional<ChatTemplate> chat_template;
  ApiKeys keys{{}};
  Metrics* metrics = nullptr;
  AnswerThreads* answers = nullptr;
  ServingLoop* loop = nullptr;
  const Engine* engine = nullptr;  // for Check, config and tokenizer
  const PromptMaker* prompts = nullptr;
  std::shared_ptr<spdlog::logger> log;  // of requests
  int64_t started = 0;                  // Unix seconds
  bool only_local = false;  // this machine's users need no key: pages of other sites must stay out

  bool ready() const { return engine != nullptr && loop->accepting(); }
};

// One HTTP request under way: answers it and logs it, once.
class Call : public std::enable_shared_from_this<Call> {
 public:
  Call(const ServerContext& context, const HttpRequest& request,
       std::shared_ptr<HttpExchange> exchange);
  ~Call();

  const std::string& id() const { return id_; }
  const std::string& path() const { return path_; }
  const ServerContext& context() const { return context_; }
  void Respond(int status, const nlohmann::ordered_json& body);
  void RespondText(int status, const std::string& content_type, std::string text);
  // A file of the page, with what keeps browsers strict.
  void RespondPage(const std::string& content_type, std::string text);
  void Fail(int status, const std::string& message, const std::string& param = "",
            const std::string& code = "");
  // With the HTTP status that fits.
  void Fail(const absl::Status& status);
  void FailUnknownModel(const std::string& name);

  // Server-sent events.
  void StartEvents();
  void Event(const nlohmann::ordered_json& data);
  void Comment(const std::string& text);  // which clients ignore
  void FinishEvents();                    // with `data: [DONE]`
  void FailEvents(const absl::Status& status);

  void OnDisconnect(std::function<void()> callback);
  // For the log.
  void SetStream(bool stream) { stream_ = stream; }
  void SetTokens(int64_t prompt, int64_t generated) {
    prompt_tokens_ = prompt;
    generated_tokens_ = generated;
  }
  // By the engine's thread alone.
  void NoteToken() {
    if (first_token_ == 0) first_token_ = MonotonicSeconds();
  }

 private:
  void Send(int status, const std::string& content_type, std::string body,
            const HttpHeaders& headers = {});

  const ServerContext& context_;
  std::shared_ptr<HttpExchange> exchange_;
  std::string id_, method_, path_;
  double start_;
  double first_token_ = 0;          // 0: there was none
  std::atomic<bool> left_ = false;  // the client has
  int status_ = 0;
  int error_status_ = 0;  // of an error behind the head
  std::optional<bool> stream_;
  int64_t prompt_tokens_ = 0, generated_tokens_ = 0;
  std::string error_;
};

}  // namespace longspan

#endif  // LONGSPAN_RUNTIME_SERVER_CALL_H_
