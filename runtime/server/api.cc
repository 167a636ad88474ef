#include "runtime/server/api.h"

#include <algorithm>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "runtime/answer_json.h"
#include "runtime/server/completions.h"
#include "runtime/server/page.h"

namespace longspan {
namespace {

using Json = nlohmann::ordered_json;

// An object with at most `allowed` members; nullopt, and answered, if it is not.
std::optional<Json> ParseObject(Call& call, const std::string& body,
                                std::initializer_list<absl::string_view> allowed) {
  bool deep = false;
  std::string unknown;
  // Keys are looked through one by one, so unknown ones must not be kept.
  const auto keep = [&](int depth, Json::parse_event_t event, Json& parsed) {
    deep |= depth > 2 || (depth > 0 && event == Json::parse_event_t::object_start);
    if (event == Json::parse_event_t::key && unknown.empty()) {
      const std::string& key = parsed.get_ref<const std::string&>();
      if (std::find(allowed.begin(), allowed.end(), key) == allowed.end()) {
        unknown = absl::StrCat("`", key.substr(0, 64), "`");
      }
    }
    return !deep && unknown.empty();
  };
  Json json = Json::parse(body, keep, /*allow_exceptions=*/false);
  if (!unknown.empty()) {
    call.Fail(400, "unknown parameter " + unknown, unknown.substr(1, unknown.size() - 2));
    return std::nullopt;
  }
  if (json.is_discarded() || deep || !json.is_object()) {
    call.Fail(400, "the body must be a JSON object");
    return std::nullopt;
  }
  return json;
}

// As of a part of a URL: a model's name may have slashes, which clients write as %2F.
std::string DecodePercent(absl::string_view text) {
  std::string decoded;
  for (size_t i = 0; i < text.size(); ++i) {
    const absl::string_view digits = text.substr(i + 1).substr(0, 2);
    uint32_t byte = 0;
    const bool is_encoded = text[i] == '%' && digits.size() == 2 &&
                            absl::ascii_isxdigit(digits[0]) && absl::ascii_isxdigit(digits[1]) &&
                            absl::SimpleHexAtoi(digits, &byte);
    decoded += is_encoded ? static_cast<char>(byte) : text[i];
    if (is_encoded) i += 2;
  }
  return decoded;
}

// ---- What each path does ----

using CallPtr = std::shared_ptr<Call>;

Json ModelJson(const ServerContext& context) {
  return {{"id", context.model_name},
          {"object", "model"},
          {"created", context.started},
          {"owned_by", "longspan"},
          {"max_model_len", context.engine->config().max_model_len}};
}

void Models(const CallPtr& call, const std::string&) {
  call->Respond(200, {{"object", "list"}, {"data", Json::array({ModelJson(call->context())})}});
}

constexpr absl::string_view kModelPath = "/v1/models/";

void Model(const CallPtr& call, const std::string&) {
  const std::string name = DecodePercent(absl::StripPrefix(call->path(), kModelPath));
  if (name != call->context().model_name) return call->FailUnknownModel(name);
  call->Respond(200, ModelJson(call->context()));
}

void TextCompletions(const CallPtr& call, const std::string& body) {
  AnswerCompletions(call, body, /*is_chat=*/false);
}

void ChatCompletions(const CallPtr& call, const std::string& body) {
  AnswerCompletions(call, body, /*is_chat=*/true);
}

void Tokenize(const CallPtr& call, const std::string& body) {
  const auto json =
      ParseObject(*call, body, {"model", "prompt", "add_special_tokens", "return_token_strs"});
  if (!json) return;
  const auto flag = [&](const char* name, bool value) -> std::optional<bool> {
    if (!json->contains(name)) return value;
    if (!(*json)[name].is_boolean()) return std::nullopt;
    return (*json)[name].get<bool>();
  };
  const std::optional<bool> special = flag("add_special_tokens", true);
  const std::optional<bool> strings = flag("return_token_strs", false);
  if (!special) return call->Fail(400, "must be true or false", "add_special_tokens");
  if (!strings) return call->Fail(400, "must be true or false", "return_token_strs");
  if (!json->contains("prompt") || !(*json)["prompt"].is_string()) {
    return call->Fail(400, "`prompt` must be a text", "prompt");
  }
  const Tokenizer& tokenizer = call->context().engine->tokenizer();
  const absl::StatusOr<std::vector<int32_t>> tokens =
      tokenizer.Encode((*json)["prompt"].get_ref<const std::string&>(), *special);
  if (!tokens.ok()) return call->Fail(tokens.status());
  Json answer = {{"count", tokens->size()},
                 {"max_model_len", call->context().engine->config().max_model_len},
                 {"tokens", *tokens}};
  if (*strings) {
    Json& pieces = answer["token_strs"] = Json::array();
    for (const int32_t token : *tokens) pieces.push_back(tokenizer.IdToPiece(token));
  }
  call->Respond(200, answer);
}

void Detokenize(const CallPtr& call, const std::string& body) {
  const auto json = ParseObject(*call, body, {"model", "tokens"});
  if (!json) return;
  std::vector<int32_t> tokens;
  const int64_t vocab = call->context().engine->vocab_size();
  const auto list = json->find("tokens");
  if (list == json->end() || !list->is_array()) {
    return call->Fail(400, "`tokens` must be a list of ids", "tokens");
  }
  for (const Json& token : *list) {
    if (!token.is_number_integer() || token < 0 || token >= vocab) {
      return call->Fail(400,
                        absl::StrCat("`tokens` must be ids from 0 to ", vocab - 1, ", not ",
                                     DumpJson(token).substr(0, 64)),
                        "tokens");
    }
    tokens.push_back(token.get<int32_t>());
  }
  call->Respond(200, {{"prompt", call->context().engine->tokenizer().Decode(tokens, false)}});
}

void Health(const CallPtr& call, const std::string&) { call->RespondText(200, "text/plain", ""); }

const char* WhyNotReady(const ServerContext& context) {
  return context.engine == nullptr ? "the model is still being loaded" : "the server is stopping";
}

void Ready(const CallPtr& call, const std::string&) {
  if (call->context().ready()) return call->RespondText(200, "text/plain", "");
  call->Fail(503, WhyNotReady(call->context()));
}

void Version(const CallPtr& call, const std::string&) {
  call->Respond(200, {{"version", LONGSPAN_VERSION}});
}

void MetricsText(const CallPtr& call, const std::string&) {
  call->RespondText(200, "text/plain; version=0.0.4; charset=utf-8",
                    call->context().metrics->Text());
}

// What the page needs to ask as `longspan ask` does.
void PageSettings(const CallPtr& call, const std::string&) {
  const Config& config = call->context().engine->config();
  call->Respond(200, {{"model", call->context().model_name},
                      {"max_model_len", config.max_model_len},
                      {"max_body_bytes", config.server.max_body_bytes},
                      {"prompt_template", config.ask.prompt_template},
                      {"stop", config.ask.stop}});
}

template <const PageFile& file>
void Page(const CallPtr& call, const std::string&) {
  call->RespondPage(std::string(file.content_type), std::string(file.text));
}

struct Route {
  absl::string_view path;  // kModelPath: and what is below it
  absl::string_view method;
  bool is_open;  // needs no key
  bool needs_model;
  void (*answer)(const CallPtr&, const std::string& body);
};
constexpr Route kRoutes[] = {
    {"/v1/completions", "POST", false, true, TextCompletions},
    {"/v1/chat/completions", "POST", false, true, ChatCompletions},
    {"/v1/models", "GET", false, true, Models},
    {kModelPath, "GET", false, true, Model},
    {"/tokenize", "POST", false, true, Tokenize},
    {"/detokenize", "POST", false, true, Detokenize},
    {"/health", "GET", true, false, Health},
    {"/ready", "GET", true, false, Ready},
    {"/version", "GET", true, false, Version},
    {"/metrics", "GET", true, false, MetricsText},
    {"/", "GET", true, false, Page<kPageHtml>},
    {"/page.css", "GET", true, false, Page<kPageCss>},
    {"/page.js", "GET", true, false, Page<kPageJs>},
    {"/page/settings", "GET", false, true, PageSettings},
};

const Route* FindRoute(const HttpRequest& request) {
  const bool is_model = absl::StartsWith(request.path, kModelPath);
  const absl::string_view path = is_model ? kModelPath : absl::string_view(request.path);
  const auto* route = std::find_if(std::begin(kRoutes), std::end(kRoutes),
                                   [path](const Route& r) { return r.path == path; });
  return route == std::end(kRoutes) ? nullptr : route;
}

struct Refusal {
  int status;
  std::string message;
  std::string code = "";
};

// What of its head refuses a request.
std::optional<Refusal> RefusalOf(const ServerContext& context, const HttpRequest& head) {
  const Route* route = FindRoute(head);
  if (route == nullptr) {
    return Refusal{404, absl::StrCat("there is nothing at ", head.path.substr(0, 256))};
  }
  if (head.method != route->method && !(head.method == "HEAD" && route->method == "GET")) {
    return Refusal{405, absl::StrCat(route->path, " is for ", route->method)};
  }
  if (context.only_local && !IsLoopback(head.host)) {
    return Refusal{403,
                   "this server is for its own machine alone: ask for localhost, or give it an API "
                   "key"};
  }
  if (!route->is_open && !context.keys.Allow(head.authorization)) {
    const bool has_key = !ApiKeys::KeyOf(head.authorization).empty();
    return Refusal{
        401, has_key ? "incorrect API key" : "an API key is needed, as `Authorization: Bearer KEY`",
        "invalid_api_key"};
  }
  // A page of another site could send any other type to a server on this machine unasked.
  if (route->method == "POST" &&
      !absl::StartsWithIgnoreCase(head.content_type, "application/json")) {
    return Refusal{415, "the Content-Type must be application/json"};
  }
  if (route->needs_model && !context.ready()) return Refusal{503, WhyNotReady(context)};
  return std::nullopt;
}

// The answer to a request that has no exchange yet.
HttpResponse Refused(const ServerContext& context, const HttpRequest& head,
                     const Refusal& refusal) {
  class Kept final : public HttpExchange {
   public:
    void Respond(HttpResponse given) override { response = std::move(given); }
    void StartStream(HttpResponse) override {}
    void Write(std::string) override {}
    void Finish() override {}
    void OnDisconnect(std::function<void()>) override {}
    HttpResponse response;
  };
  const auto kept = std::make_shared<Kept>();
  Call(context, head, kept).Fail(refusal.status, refusal.message, "", refusal.code);
  return std::move(kept->response);
}

}  // namespace

bool IsLoopback(absl::string_view host) {
  for (const absl::string_view name : {"localhost", "127.0.0.1", "[::1]", "::1"}) {
    absl::string_view rest = host;
    if (!absl::ConsumePrefix(&rest, name)) continue;
    if (rest.empty() || (rest[0] == ':' && name != "::1")) return true;
  }
  return false;
}

bool IsQuick(const HttpRequest& request) {
  const Route* route = FindRoute(request);
  return route != nullptr && route->is_open;
}

std::optional<HttpResponse> Admit(const ServerContext& context, const HttpRequest& head) {
  const std::optional<Refusal> refusal = RefusalOf(context, head);
  if (!refusal) return std::nullopt;
  return Refused(context, head, *refusal);
}

HttpResponse Refuse(const ServerContext& context, const HttpRequest& head, int status,
                    const std::string& message) {
  return Refused(context, head, {status, message});
}

void Answer(const ServerContext& context, HttpRequest request,
            std::shared_ptr<HttpExchange> exchange) {
  const auto call = std::make_shared<Call>(context, request, std::move(exchange));
  if (const std::optional<Refusal> refusal = RefusalOf(context, request)) {
    return call->Fail(refusal->status, refusal->message, "", refusal->code);
  }
  FindRoute(request)->answer(call, request.body);
}

}  // namespace longspan
