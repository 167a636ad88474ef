#include "runtime/server/http_server.h"

#include <sys/resource.h>
#include <sys/socket.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <boost/asio/as_tuple.hpp>
#include <boost/asio/awaitable.hpp>
#include <boost/asio/co_spawn.hpp>
#include <boost/asio/detached.hpp>
#include <boost/asio/executor_work_guard.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/post.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/asio/use_awaitable.hpp>
#include <boost/asio/write.hpp>
#include <boost/beast/core/flat_buffer.hpp>
#include <boost/beast/http.hpp>
#include <chrono>
#include <list>
#include <optional>
#include <thread>

#include "absl/cleanup/cleanup.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "runtime/answer_json.h"

namespace longspan {
namespace {

namespace asio = boost::asio;
namespace beast = boost::beast;
namespace http = beast::http;
using asio::ip::tcp;
using Error = boost::system::error_code;

constexpr auto kAwait = asio::as_tuple(asio::use_awaitable);
constexpr int64_t kSpareFiles = 64;  // descriptors that are not connections

class Connection;

// What connections share; touched by the server's thread alone, but for `count`.
struct Shared {
  HttpLimits limits;
  HttpServer::Callbacks callbacks;
  int64_t arriving = 0;  // bytes of bodies
  std::list<std::weak_ptr<Connection>> all;
  std::atomic<int64_t> count = 0;
  bool draining = false;
};

HttpResponse ErrorResponse(int status, const std::string& message) {
  return {status, "application/json",
          DumpJson(ErrorJson(message, "invalid_request_error", "", ""))};
}

// One client: reads a request, lets it be answered, and again.
class Connection : public std::enable_shared_from_this<Connection> {
 public:
  Connection(tcp::socket socket, Shared& shared)
      : socket_(std::move(socket)),
        shared_(shared),
        deadline_(socket_.get_executor()),
        wake_(socket_.get_executor()) {
    ++shared_.count;
  }
  ~Connection() { --shared_.count; }

  bool idle() const { return idle_; }
  std::chrono::steady_clock::time_point idle_since() const { return idle_since_; }
  void Close() {
    Error ignored;
    socket_.shutdown(tcp::socket::shutdown_both, ignored);
    socket_.close(ignored);
  }

  asio::awaitable<void> Run();

 private:
  class Exchange;

  // Of the answer under way.
  struct Answer {
    uint64_t number = 0;  // of the connection's requests, from 1; 0: none is being answered
    std::optional<HttpResponse> head;
    bool streams = false;
    std::string pieces;  // of the body, not yet written
    bool finished = false;
    std::function<void()> on_disconnect;
  };

  // Ends what the socket is doing if it takes longer than `limit`.
  void Limit(absl::Duration limit) {
    timed_out_ = false;
    CancelIn(absl::ToChronoMilliseconds(limit));
  }
  // Again and again: a part of what is done may have ended, and the next not begun.
  void CancelIn(std::chrono::milliseconds time) {
    deadline_.expires_after(time);
    deadline_.async_wait([weak = weak_from_this()](Error error) {
      const auto self = weak.lock();
      // A timer that was set anew while this stood in the queue has not expired.
      if (error || !self || self->deadline_.expiry() > std::chrono::steady_clock::now()) return;
      self->timed_out_ = true;
      Error ignored;
      self->socket_.cancel(ignored);
      self->CancelIn(std::chrono::milliseconds(100));
    });
  }
  void NoLimit() { deadline_.expires_at(std::chrono::steady_clock::time_point::max()); }

  // nullopt: nothing more is to be read from this client.
  asio::awaitable<std::optional<HttpRequest>> Read();
  HttpRequest HeadOf(const http::request<http::string_body>& message);
  asio::awaitable<void> Refuse(HttpResponse response);
  // Returns whether the connection can be used again.
  asio::awaitable<bool> WriteAnswer();
  asio::awaitable<bool> Write(absl::string_view bytes);
  std::string Head(const HttpResponse& response, bool chunked) const;
  void WatchForDisconnect();
  void Disconnected();
  // Runs on the server's thread, for exchange `number`.
  template <typename F>
  void Post(uint64_t number, F&& change);

  tcp::socket socket_;
  Shared& shared_;
  asio::steady_timer deadline_, wake_;
  beast::flat_buffer buffer_;
  bool timed_out_ = false;
  bool idle_ = false;
  std::chrono::steady_clock::time_point idle_since_;
  bool keep_alive_ = true;
  bool is_head_ = false;      // the request's method
  bool is_http_1_0_ = false;  // no chunks
  bool disconnected_ = false;
  uint64_t requests_ = 0;
  Answer answer_;
};

class Connection::Exchange final : public HttpExchange {
 public:
  Exchange(std::shared_ptr<Connection> connection, uint64_t number)
      : connection_(std::move(connection)), number_(number) {}
  // One that nobody answered must not keep its client waiting.
  ~Exchange() override {
    connection_->Post(number_, [](Answer& answer) {
      if (answer.finished) return;
      if (!answer.head) answer.head = ErrorResponse(500, "the request was dropped");
      answer.finished = true;
    });
  }

  void Respond(HttpResponse response) override {
    connection_->Post(number_, [response = std::move(response)](Answer& answer) mutable {
      if (answer.head) return;
      answer.head = std::move(response);
      answer.finished = true;
    });
  }
  void StartStream(HttpResponse head) override {
    connection_->Post(number_, [head = std::move(head)](Answer& answer) mutable {
      if (answer.head) return;
      answer.head = std::move(head);
      answer.streams = true;
    });
  }
  void Write(std::string piece) override {
    connection_->Post(number_, [piece = std::move(piece)](Answer& answer) {
      if (!answer.finished) answer.pieces += piece;
    });
  }
  void Finish() override {
    connection_->Post(number_, [](Answer& answer) { answer.finished = true; });
  }
  void OnDisconnect(std::function<void()> callback) override {
    connection_->Post(number_, [connection = connection_.get(),
                                callback = std::move(callback)](Answer& answer) mutable {
      if (connection->disconnected_) return callback();
      answer.on_disconnect = std::move(callback);
    });
  }

 private:
  std::shared_ptr<Connection> connection_;
  uint64_t number_;
};

template <typename F>
void Connection::Post(uint64_t number, F&& change) {
  asio::post(socket_.get_executor(),
             [self = shared_from_this(), number, change = std::forward<F>(change)]() mutable {
               if (self->answer_.number != number) return;
               change(self->answer_);
               if (self->disconnected_) self->answer_.pieces.clear();
               self->wake_.cancel();
             });
}

asio::awaitable<void> Connection::Run() {
  const auto self = shared_from_this();
  while (keep_alive_ && !shared_.draining) {
    std::optional<HttpRequest> request = co_await Read();
    if (!request) break;
    const uint64_t number = ++requests_;
    answer_ = Answer{number};
    disconnected_ = false;
    WatchForDisconnect();
    shared_.callbacks.handle(*std::move(request), std::make_shared<Exchange>(self, number));
    const bool usable = co_await WriteAnswer();
    Error ignored;
    socket_.cancel(ignored);  // the watch
    if (!usable) break;       // who answers may yet have to be told that the client has left
    answer_ = Answer{};
  }
  Close();
}

asio::awaitable<std::optional<HttpRequest>> Connection::Read() {
  idle_ = true;
  idle_since_ = std::chrono::steady_clock::now();
  http::request_parser<http::string_body> parser;
  parser.header_limit(static_cast<uint32_t>(shared_.limits.max_header_bytes));
  parser.body_limit(static_cast<uint64_t>(shared_.limits.max_body_bytes));
  Limit(shared_.limits.idle_timeout);
  auto [error, read] = co_await http::async_read_header(socket_, buffer_, parser, kAwait);
  idle_ = false;
  HttpRequest request = HeadOf(parser.get());
  const auto refuse = [&](int status, const std::string& message) {
    return Refuse(shared_.callbacks.refuse(request, status, message));
  };
  if (!error && !parser.chunked() && parser.get().count(http::field::transfer_encoding) > 0) {
    // Beast would read a body of its Content-Length, and a proxy perhaps another.
    co_await refuse(501, "the Transfer-Encoding must be chunked");
    co_return std::nullopt;
  }
  if (!error && parser.get().version() == 11 && parser.get().count(http::field::host) != 1) {
    co_await refuse(400, "HTTP/1.1 needs one Host");
    co_return std::nullopt;
  }
  int64_t arriving = 0;
  const absl::Cleanup arrived = [&] { shared_.arriving -= arriving; };
  if (!error && !parser.is_done()) {
    if (std::optional<HttpResponse> refusal = shared_.callbacks.admit(request)) {
      co_await Refuse(*std::move(refusal));
      co_return std::nullopt;
    }
    arriving = std::min<int64_t>(shared_.limits.max_body_bytes,
                                 parser.content_length().value_or(shared_.limits.max_body_bytes));
    shared_.arriving += arriving;
    if (shared_.arriving > shared_.limits.max_bodies_bytes) {
      co_await refuse(503, "too many large requests are arriving: try again later");
      co_return std::nullopt;
    }
    Limit(shared_.limits.body_timeout);
    if (beast::iequals(parser.get()[http::field::expect], "100-continue")) {
      const bool went = co_await Write("HTTP/1.1 100 Continue\r\n\r\n");
      if (!went) co_return std::nullopt;
      Limit(shared_.limits.body_timeout);
    }
    std::tie(error, read) = co_await http::async_read(socket_, buffer_, parser, kAwait);
  }
  NoLimit();
  if (error) {
    if (timed_out_ && parser.got_some()) {
      co_await refuse(408, "the request took too long to arrive");
    } else if (error == http::error::header_limit || error == http::error::buffer_overflow) {
      co_await refuse(431, absl::StrCat("the request's header has more than ",
                                        shared_.limits.max_header_bytes, " bytes"));
    } else if (error == http::error::body_limit) {
      co_await refuse(413, absl::StrCat("the request's body has more than ",
                                        shared_.limits.max_body_bytes, " bytes"));
    } else if (parser.got_some() &&
               error.category() == http::make_error_code(http::error::partial_message).category() &&
               error != http::error::partial_message && error != http::error::end_of_stream) {
      co_await refuse(400, absl::StrCat("not valid HTTP: ", error.message()));
    }
    co_return std::nullopt;
  }
  request.body = std::move(parser.get().body());
  co_return request;
}

// Without its body.
HttpRequest Connection::HeadOf(const http::request<http::string_body>& message) {
  keep_alive_ = message.keep_alive();
  is_head_ = message.method() == http::verb::head;
  is_http_1_0_ = message.version() < 11;
  const absl::string_view target(message.target().data(), message.target().size());
  const auto header = [&message](http::field field) { return std::string(message[field]); };
  HttpRequest request;
  request.method = std::string(message.method_string());
  request.path = std::string(target.substr(0, target.find('?')));
  request.host = header(http::field::host);
  request.authorization = header(http::field::authorization);
  request.content_type = header(http::field::content_type);
  request.request_id = std::string(message["X-Request-Id"]);
  return request;
}

asio::awaitable<void> Connection::Refuse(HttpResponse response) {
  keep_alive_ = false;
  const bool went = co_await Write(Head(response, false) + response.body);
  if (!went) co_return;
  // What the client still sends would make the kernel reset the connection, and the answer with it.
  Error error;
  socket_.shutdown(tcp::socket::shutdown_send, error);
  Limit(absl::Seconds(2));
  std::array<char, 4096> rest;
  while (!error && !timed_out_) {
    std::tie(error, std::ignore) = co_await socket_.async_read_some(asio::buffer(rest), kAwait);
  }
}

asio::awaitable<bool> Connection::Write(absl::string_view bytes) {
  constexpr size_t kSlice = 256 << 10;  // the limit is on standing still
  Error error;
  while (!error && !bytes.empty()) {
    const absl::string_view slice = bytes.substr(0, kSlice);
    bytes.remove_prefix(slice.size());
    Limit(shared_.limits.write_timeout);
    std::tie(error, std::ignore) =
        co_await asio::async_write(socket_, asio::buffer(slice.data(), slice.size()), kAwait);
  }
  NoLimit();
  co_return !error;
}

std::string Connection::Head(const HttpResponse& response, bool chunked) const {
  const auto reason = http::obsolete_reason(static_cast<http::status>(response.status));
  std::string head = absl::StrCat("HTTP/1.1 ", response.status, " ",
                                  absl::string_view(reason.data(), reason.size()),
                                  "\r\nContent-Type: ", response.content_type, "\r\n");
  for (const auto& [name, value] : response.headers) {
    absl::StrAppend(&head, name, ": ", value, "\r\n");
  }
  if (chunked) {
    absl::StrAppend(&head, "Transfer-Encoding: chunked\r\n");
  } else if (!answer_.streams) {
    absl::StrAppend(&head, "Content-Length: ", response.body.size(), "\r\n");
  }
  absl::StrAppend(&head, "Connection: ", keep_alive_ ? "keep-alive" : "close", "\r\n\r\n");
  return head;
}

asio::awaitable<bool> Connection::WriteAnswer() {
  bool head_written = false;
  while (true) {
    if (disconnected_) co_return false;
    if (answer_.head) {
      std::string bytes;
      const bool finished = answer_.finished;
      const bool chunked = answer_.streams && !is_http_1_0_;
      if (answer_.streams && is_http_1_0_) keep_alive_ = false;
      if (!head_written) bytes = Head(*answer_.head, chunked);
      head_written = true;
      if (!is_head_) {
        if (!answer_.streams) {
          bytes += answer_.head->body;
        } else if (const std::string pieces = std::exchange(answer_.pieces, ""); !pieces.empty()) {
          bytes +=
              chunked ? absl::StrCat(absl::Hex(pieces.size()), "\r\n", pieces, "\r\n") : pieces;
        }
        if (chunked && finished) bytes += "0\r\n\r\n";
      }
      const bool went = bytes.empty() || co_await Write(bytes);
      if (!went) {
        Disconnected();
        co_return false;
      }
      if (finished) co_return true;
      if (!answer_.pieces.empty() || answer_.finished) continue;
    }
    wake_.expires_at(std::chrono::steady_clock::time_point::max());
    if (!disconnected_ && (!answer_.head || (answer_.pieces.empty() && !answer_.finished))) {
      co_await wake_.async_wait(kAwait);
    }
  }
}

// A client that has sent its request sends nothing more until it is answered, unless it leaves; one
// that has closed its half of the connection counts as gone, since TCP shows no difference before
// something is written to it, and an answer may be written an hour later.
void Connection::WatchForDisconnect() {
  socket_.async_wait(
      tcp::socket::wait_read, [self = shared_from_this(), number = answer_.number](Error error) {
        if (error || self->answer_.number != number) return;
        char byte;
        const ssize_t got = recv(self->socket_.native_handle(), &byte, 1, MSG_PEEK | MSG_DONTWAIT);
        if (got > 0 || (got < 0 && errno == EAGAIN)) return;  // the next request
        self->Disconnected();
      });
}

void Connection::Disconnected() {
  if (disconnected_) return;
  disconnected_ = true;
  if (const auto callback = std::exchange(answer_.on_disconnect, nullptr)) callback();
  wake_.cancel();
}

class HttpServerImpl final : public HttpServer {
 public:
  HttpServerImpl(const HttpLimits& limits, Callbacks callbacks) : acceptor_(io_) {
    shared_.limits = limits;
    shared_.callbacks = std::move(callbacks);
    rlimit files;
    if (getrlimit(RLIMIT_NOFILE, &files) != 0) return;
    files.rlim_cur = files.rlim_max;
    setrlimit(RLIMIT_NOFILE, &files);
    const auto most = static_cast<int64_t>(std::min<rlim_t>(files.rlim_max, 1 << 20));
    shared_.limits.max_connections = std::clamp(shared_.limits.max_connections, int64_t{1},
                                                std::max(most - kSpareFiles, int64_t{1}));
  }

  ~HttpServerImpl() override { Stop(); }

  void Stop() override {
    io_.stop();
    if (thread_.joinable()) thread_.join();
  }

  absl::Status Listen(const std::string& host, int port) {
    const auto fail = [&](const Error& error) {
      return absl::UnavailableError(absl::StrCat("cannot listen on ", host, ":", port, ": ",
                                                 error.message(),
                                                 "; choose another --host or --port"));
    };
    Error error;
    tcp::resolver resolver(io_);
    const auto found = resolver.resolve(host, std::to_string(port), tcp::resolver::passive, error);
    if (error) return fail(error);
    const tcp::endpoint endpoint = *found.begin();
    acceptor_.open(endpoint.protocol(), error);
    if (!error) acceptor_.set_option(tcp::acceptor::reuse_address(true), error);
    if (!error) acceptor_.bind(endpoint, error);
    if (!error) acceptor_.listen(asio::socket_base::max_listen_connections, error);
    if (error) return fail(error);
    port_ = acceptor_.local_endpoint().port();
    asio::co_spawn(io_, Accept(), asio::detached);
    thread_ = std::thread([this] { io_.run(); });
    return absl::OkStatus();
  }

  int port() const override { return port_; }
  int64_t num_connections() const override { return shared_.count; }

  void Drain(absl::Duration limit) override {
    asio::post(io_, [this] {
      Error ignored;
      acceptor_.close(ignored);
      shared_.draining = true;
      for (const auto& weak : shared_.all) {
        const auto connection = weak.lock();
        if (connection && connection->idle()) connection->Close();
      }
    });
    const absl::Time deadline = absl::Now() + limit;
    while (shared_.count > 0 && absl::Now() < deadline) absl::SleepFor(absl::Milliseconds(10));
  }

 private:
  asio::awaitable<void> Accept() {
    while (acceptor_.is_open()) {
      auto [error, socket] = co_await acceptor_.async_accept(kAwait);
      if (error == asio::error::operation_aborted || error == asio::error::bad_descriptor)
        co_return;
      if (error) {  // no descriptors, say: others will be closed
        asio::steady_timer pause(io_, std::chrono::milliseconds(100));
        co_await pause.async_wait(kAwait);
        continue;
      }
      Error ignored;
      socket.set_option(tcp::no_delay(true), ignored);
      if (!MakeRoom()) continue;
      const auto connection = std::make_shared<Connection>(std::move(socket), shared_);
      shared_.all.push_back(connection);
      asio::co_spawn(io_, connection->Run(), asio::detached);
    }
  }

  // Closes the connection that has been idle longest if there are too many; false: none is idle.
  bool MakeRoom() {
    std::erase_if(shared_.all, [](const auto& weak) { return weak.expired(); });
    if (shared_.count < shared_.limits.max_connections) return true;
    std::shared_ptr<Connection> oldest;
    for (const auto& weak : shared_.all) {
      const auto connection = weak.lock();
      if (connection && connection->idle() &&
          (!oldest || connection->idle_since() < oldest->idle_since())) {
        oldest = connection;
      }
    }
    if (oldest) oldest->Close();
    return oldest != nullptr;
  }

  Shared shared_;  // outlives the connections, which end with io_
  asio::io_context io_{1};
  asio::executor_work_guard<asio::io_context::executor_type> work_{io_.get_executor()};
  tcp::acceptor acceptor_;
  int port_ = 0;
  std::thread thread_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<HttpServer>> HttpServer::Start(const std::string& host, int port,
                                                              const HttpLimits& limits,
                                                              Callbacks callbacks) {
  auto server = std::make_unique<HttpServerImpl>(limits, std::move(callbacks));
  if (absl::Status status = server->Listen(host, port); !status.ok()) return status;
  return server;
}

}  // namespace longspan
