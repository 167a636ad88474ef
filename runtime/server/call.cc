#include "runtime/server/call.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "runtime/answer_json.h"

namespace longspan {
namespace {

using Json = nlohmann::ordered_json;

constexpr size_t kMaxRequestIdBytes = 128;
constexpr size_t kMaxLoggedPath = 256;

int HttpStatus(const absl::Status& status) {
  switch (status.code()) {
    case absl::StatusCode::kInvalidArgument:
      return 400;
    case absl::StatusCode::kNotFound:
      return 404;
    case absl::StatusCode::kResourceExhausted:
      return 429;
    case absl::StatusCode::kUnavailable:
    case absl::StatusCode::kCancelled:
      return 503;
    case absl::StatusCode::kDeadlineExceeded:
      return 504;
    default:
      return 500;
  }
}

// As OpenAI's clients know them.
const char* ErrorType(int status) {
  switch (status) {
    case 401:
      return "authentication_error";
    case 404:
      return "not_found_error";
    case 429:
      return "rate_limit_error";
    case 503:
    case 504:
      return "service_unavailable_error";
    default:
      return status >= 500 ? "internal_server_error" : "invalid_request_error";
  }
}

// The client's, if it could stand in a header and a log.
std::string RequestId(const std::string& stated) {
  const bool fits = !stated.empty() && stated.size() <= kMaxRequestIdBytes &&
                    std::all_of(stated.begin(), stated.end(), [](char c) {
                      return absl::ascii_isalnum(static_cast<unsigned char>(c)) || c == '-' ||
                             c == '_' || c == '.';
                    });
  return fits ? stated : UniqueHex();
}

}  // namespace

Call::Call(const ServerContext& context, const HttpRequest& request,
           std::shared_ptr<HttpExchange> exchange)
    : context_(context),
      exchange_(std::move(exchange)),
      id_(RequestId(request.request_id)),
      method_(request.method),
      path_(request.path),
      start_(MonotonicSeconds()) {}

// The log is for machines: one JSON object a line.
Call::~Call() {
  context_.metrics->CountHttp(left_ ? 499 : status_);  // nginx's for a client that left
  Json line = {{"event", "request"},
               {"time", absl::FormatTime("%Y-%m-%dT%H:%M:%E3SZ", absl::Now(), absl::UTCTimeZone())},
               {"request_id", id_},
               {"method", method_},
               {"path", path_.substr(0, kMaxLoggedPath)},
               {"status", left_ ? 499 : status_},
               {"duration_s", MonotonicSeconds() - start_}};
  if (stream_) line["stream"] = *stream_;
  if (first_token_ > 0) line["time_to_first_token_s"] = first_token_ - start_;
  if (prompt_tokens_ > 0) {
    line["prompt_tokens"] = prompt_tokens_;
    line["completion_tokens"] = generated_tokens_;
  }
  if (error_status_ > 0) line["error_status"] = error_status_;
  if (!error_.empty()) line["error"] = error_;
  const bool is_probe = path_ == "/health" || path_ == "/ready" || path_ == "/metrics";
  context_.log->log(is_probe ? spdlog::level::debug : spdlog::level::info, DumpJson(line));
}

void Call::Send(int status, const std::string& content_type, std::string body,
                const HttpHeaders& headers) {
  status_ = status;
  HttpResponse response = {status, content_type, std::move(body), headers};
  response.headers.emplace_back("X-Request-Id", id_);
  if (status == 401) response.headers.emplace_back("WWW-Authenticate", "Bearer");
  if (status == 429 || status == 503) {
    const double seconds =
        context_.loop == nullptr ? 1 : absl::ToDoubleSeconds(context_.loop->RetryAfter());
    response.headers.emplace_back("Retry-After", absl::StrCat(std::ceil(seconds)));
  }
  exchange_->Respond(std::move(response));
}

void Call::Respond(int status, const Json& body) {
  Send(status, "application/json", DumpJson(body));
}

void Call::RespondText(int status, const std::string& content_type, std::string text) {
  Send(status, content_type, std::move(text));
}

// Whatever a document or an answer may hold, the page runs and loads nothing but its own files.
void Call::RespondPage(const std::string& content_type, std::string text) {
  Send(200, content_type, std::move(text),
       {{"Cache-Control", "no-cache"},
        {"Content-Security-Policy",
         "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
         "img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"},
        {"X-Content-Type-Options", "nosniff"}});
}

void Call::Fail(int status, const std::string& message, const std::string& param,
                const std::string& code) {
  error_ = message;
  Respond(status, ErrorJson(message, ErrorType(status), param, code));
}

void Call::Fail(const absl::Status& status) {
  Fail(HttpStatus(status), std::string(status.message()));
}

void Call::FailUnknownModel(const std::string& name) {
  Fail(404,
       absl::StrCat("the model `", name.substr(0, 256), "` does not exist; this server has `",
                    context_.model_name, "`"),
       "model", "model_not_found");
}

void Call::StartEvents() {
  status_ = 200;
  exchange_->StartStream({200,
                          "text/event-stream; charset=utf-8",
                          "",
                          {{"Cache-Control", "no-cache"}, {"X-Request-Id", id_}}});
}

void Call::Event(const Json& data) {
  exchange_->Write(absl::StrCat("data: ", DumpJson(data), "\n\n"));
}

void Call::Comment(const std::string& text) { exchange_->Write(absl::StrCat(": ", text, "\n\n")); }

void Call::FinishEvents() {
  exchange_->Write("data: [DONE]\n\n");
  exchange_->Finish();
}

// The status line is gone: clients look for `error` in an event.
void Call::FailEvents(const absl::Status& status) {
  error_ = std::string(status.message());
  error_status_ = HttpStatus(status);
  Event(ErrorJson(error_, ErrorType(error_status_), "", ""));
  FinishEvents();
}

void Call::OnDisconnect(std::function<void()> callback) {
  exchange_->OnDisconnect([weak = weak_from_this(), callback = std::move(callback)] {
    if (const auto call = weak.lock()) call->left_ = true;
    callback();
  });
}

}  // namespace longspan
