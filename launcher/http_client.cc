#include "launcher/http_client.h"

#include <algorithm>
#include <array>
#include <boost/asio/io_context.hpp>
#include <boost/asio/redirect_error.hpp>
#include <boost/asio/this_coro.hpp>
#include <boost/asio/use_awaitable.hpp>
#include <boost/beast/core.hpp>
#include <boost/beast/http.hpp>
#include <chrono>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "kernels/base/status_macros.h"

namespace longspan {
namespace {

namespace asio = boost::asio;
namespace beast = boost::beast;
namespace http = boost::beast::http;
using boost::system::error_code;

constexpr size_t kMostKept = 1 << 20;    // bytes of a body without a sink
constexpr size_t kPieceBytes = 1 << 13;  // that a sink gets at once, at most

absl::Status BadUrl(absl::string_view url, absl::string_view why) {
  return absl::InvalidArgumentError(
      absl::StrCat(url, ": ", why, "; expected is http://HOST:PORT, as in http://127.0.0.1:8000"));
}

// Whether it can stand in the line of a request and in a header.
bool IsPlain(absl::string_view text) {
  return std::all_of(text.begin(), text.end(), [](char c) { return c > ' ' && c < 0x7f; });
}

bool IsPort(absl::string_view text) {
  int port = 0;
  return std::all_of(text.begin(), text.end(), absl::ascii_isdigit) &&
         absl::SimpleAtoi(text, &port) && port >= 1 && port <= 65535;
}

std::string HostAndPort(const HttpUrl& url) {
  const bool is_ipv6 = absl::StrContains(url.host, ':');
  return absl::StrCat(is_ipv6 ? "[" : "", url.host, is_ipv6 ? "]" : "", ":", url.port);
}

http::request<http::string_body> MakeRequest(const HttpUrl& url, ClientRequest request) {
  const bool is_get = request.body.empty();
  http::request<http::string_body> message(is_get ? http::verb::get : http::verb::post,
                                           url.path + request.path, 11);
  message.set(http::field::host, HostAndPort(url));
  message.set(http::field::user_agent, "longspan");
  message.set(http::field::accept, "*/*");
  if (!request.api_key.empty()) {
    message.set(http::field::authorization, "Bearer " + request.api_key);
  }
  message.keep_alive(false);
  if (is_get) return message;
  message.set(http::field::content_type, "application/json");
  message.body() = std::move(request.body);
  message.prepare_payload();
  return message;
}

using Parser = http::response_parser<http::buffer_body>;

// The state of one request between its steps, each of which says whether to go on.
class Exchange {
 public:
  Exchange(asio::any_io_executor executor, const HttpSink& sink)
      : stream_(std::move(executor)), sink_(sink) {
    parser_.body_limit(boost::none);  // a stream has no length
  }

  asio::awaitable<void> Run(const ServerAddress& server, ClientRequest request) {
    stream_.expires_after(std::chrono::duration_cast<std::chrono::nanoseconds>(
        std::chrono::duration<double>(request.timeout_s)));
    error_code error;
    co_await stream_.async_connect(server.endpoints,
                                   asio::redirect_error(asio::use_awaitable, error));
    if (error) {
      result_.refused = error == asio::error::connection_refused;
      Fail(HttpEnd::kCannotConnect, error);
      co_return;
    }
    stream_.socket().set_option(asio::ip::tcp::no_delay(true), error);
    const http::request<http::string_body> message = MakeRequest(server.url, std::move(request));
    co_await http::async_write(stream_, message, asio::redirect_error(asio::use_awaitable, error));
    // A server may have refused a long request before it had read it all.
    const error_code write_error = error;
    co_await http::async_read_header(stream_, buffer_, parser_,
                                     asio::redirect_error(asio::use_awaitable, error));
    if (error) {
      const bool says_why = write_error && error != beast::error::timeout;
      Fail(HttpEnd::kNoAnswer, says_why ? write_error : error);
      co_return;
    }
    result_.status = parser_.get().result_int();
    result_.content_type = std::string(parser_.get()[http::field::content_type]);
    while (!parser_.is_done()) {
      parser_.get().body().data = piece_.data();
      parser_.get().body().size = piece_.size();
      co_await http::async_read_some(stream_, buffer_, parser_,
                                     asio::redirect_error(asio::use_awaitable, error));
      const bool is_enough = !Take({piece_.data(), piece_.size() - parser_.get().body().size});
      if (is_enough) co_return;
      if (error && error != http::error::need_buffer) {
        Fail(HttpEnd::kCut, error);
        co_return;
      }
    }
  }

  HttpResult TakeResult() { return std::move(result_); }

 private:
  void Fail(HttpEnd end, const error_code& error) {
    result_.end = error == beast::error::timeout ? HttpEnd::kTimeout : end;
    const bool is_end = error == http::error::end_of_stream ||
                        error == http::error::partial_message || error == asio::error::eof;
    result_.error = is_end ? "the server closed the connection" : error.message();
  }

  bool Take(absl::string_view bytes) {
    if (bytes.empty()) return true;
    bool more = true;
    if (sink_ != nullptr && result_.status == 200) {
      more = sink_(bytes);
    } else {
      absl::StrAppend(&result_.body, bytes.substr(0, kMostKept - result_.body.size()));
      more = result_.body.size() < kMostKept;
    }
    if (!more) result_.end = HttpEnd::kStopped;
    return more;
  }

  beast::tcp_stream stream_;
  beast::flat_buffer buffer_;
  Parser parser_;
  std::array<char, kPieceBytes> piece_;
  const HttpSink& sink_;
  HttpResult result_;
};

}  // namespace

std::string HttpUrl::ToString() const { return absl::StrCat("http://", HostAndPort(*this), path); }

absl::StatusOr<HttpUrl> ParseHttpUrl(absl::string_view url) {
  absl::string_view rest = url;
  if (absl::StartsWithIgnoreCase(rest, "https://")) {
    return BadUrl(url, "https is not spoken here: a proxy, or an ssh tunnel, can do that");
  }
  if (!absl::StartsWithIgnoreCase(rest, "http://")) return BadUrl(url, "not an http:// URL");
  rest.remove_prefix(absl::string_view("http://").size());
  if (!IsPlain(rest)) return BadUrl(url, "has spaces, or characters that must be escaped");
  if (rest.find_first_of("?#@") != rest.npos) {
    return BadUrl(url, "a user, a query or a fragment has no use here");
  }
  HttpUrl parsed;
  const size_t slash = rest.find('/');
  if (slash != rest.npos) {
    absl::string_view path = rest.substr(slash);
    while (absl::ConsumeSuffix(&path, "/")) {
    }
    parsed.path = std::string(path);
  }
  absl::string_view authority = rest.substr(0, slash);
  size_t colon = authority.rfind(':');
  if (absl::ConsumePrefix(&authority, "[")) {
    const size_t bracket = authority.find(']');
    if (bracket == authority.npos) return BadUrl(url, "lacks a `]`");
    parsed.host = std::string(authority.substr(0, bracket));
    authority.remove_prefix(bracket + 1);
    colon = authority.empty() ? authority.npos : 0;
    if (!authority.empty() && authority[0] != ':') return BadUrl(url, "no port follows the `]`");
  } else {
    parsed.host = std::string(authority.substr(0, colon));
    if (absl::StrContains(parsed.host, ':')) return BadUrl(url, "IPv6 is written in brackets");
  }
  if (parsed.host.empty()) return BadUrl(url, "has no host");
  parsed.port = colon == authority.npos ? "80" : std::string(authority.substr(colon + 1));
  if (!IsPort(parsed.port)) return BadUrl(url, "its port is not a number from 1 to 65535");
  return parsed;
}

absl::StatusOr<ServerAddress> FindServer(HttpUrl url) {
  asio::io_context io;
  asio::ip::tcp::resolver resolver(io);
  error_code error;
  ServerAddress server = {std::move(url), {}};
  server.endpoints = resolver.resolve(server.url.host, server.url.port, error);
  if (!error && !server.endpoints.empty()) return server;
  return absl::NotFoundError(
      absl::StrCat("--url ", server.url.ToString(), ": the host is unknown: ", error.message()));
}

asio::awaitable<HttpResult> SendHttp(const ServerAddress& server, ClientRequest request,
                                     HttpSink sink) {
  const asio::any_io_executor executor = co_await asio::this_coro::executor;
  Exchange exchange(executor, sink);
  co_await exchange.Run(server, std::move(request));
  co_return exchange.TakeResult();
}

}  // namespace longspan
