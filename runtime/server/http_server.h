#ifndef LONGSPAN_RUNTIME_SERVER_HTTP_SERVER_H_
#define LONGSPAN_RUNTIME_SERVER_HTTP_SERVER_H_

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"

// HTTP/1.1 with Boost.Beast: connections, limits and timeouts; what requests mean is api.h's.
namespace longspan {

struct HttpRequest {
  std::string method;
  std::string path;  // without the query
  std::string host;
  std::string authorization;  // of the header of that name, and so on; empty: none
  std::string content_type;
  std::string request_id;  // X-Request-Id
  std::string body;
};

using HttpHeaders = std::vector<std::pair<std::string, std::string>>;

struct HttpResponse {
  int status = 200;
  std::string content_type = "application/json";
  std::string body;
  HttpHeaders headers;  // more of them
};

// The way back of one request. Calls may come from any thread, in order; what comes after the
// client has left, or after the answer's end, is dropped.
class HttpExchange {
 public:
  virtual ~HttpExchange() = default;
  virtual void Respond(HttpResponse response) = 0;
  // Instead of Respond: `head`, then pieces of the body as they come, then Finish.
  virtual void StartStream(HttpResponse head) = 0;
  virtual void Write(std::string piece) = 0;
  virtual void Finish() = 0;
  // Called, once and by the server's thread, if the client leaves before the answer's end.
  virtual void OnDisconnect(std::function<void()> callback) = 0;
};

struct HttpLimits {
  int64_t max_body_bytes = int64_t{64} << 20;     // of a request
  int64_t max_bodies_bytes = int64_t{512} << 20;  // of all that are arriving
  int64_t max_header_bytes = 16 << 10;
  int64_t max_connections = 4096;                    // beyond them, the one idle longest is closed
  absl::Duration idle_timeout = absl::Seconds(60);   // for a request's header to arrive
  absl::Duration body_timeout = absl::Seconds(60);   // then for its body
  absl::Duration write_timeout = absl::Seconds(30);  // for the client to take what was written
};

class HttpServer {
 public:
  // Called by the server's thread, which it must not keep busy.
  using Handler = std::function<void(HttpRequest, std::shared_ptr<HttpExchange>)>;
  // Asked, by the same thread, before a body is read, of a request that has none yet: what refuses
  // it, if anything.
  using Admit = std::function<std::optional<HttpResponse>(const HttpRequest& head)>;
  // The answer to a request that the connection itself refuses, for its size, say. Of one that is
  // not HTTP `head` has what could be read.
  using Refuse =
      std::function<HttpResponse(const HttpRequest& head, int status, const std::string& message)>;
  struct Callbacks {
    Admit admit;
    Refuse refuse;
    Handler handle;
  };

  // Listens on `host`, a name or an address, and `port` (0: any that is free), and answers on a
  // thread of its own. Unavailable if that cannot be had.
  static absl::StatusOr<std::unique_ptr<HttpServer>> Start(const std::string& host, int port,
                                                           const HttpLimits& limits,
                                                           Callbacks callbacks);
  virtual ~HttpServer() = default;

  virtual int port() const = 0;
  virtual int64_t num_connections() const = 0;
  // Closes the listening socket and idle connections, and waits until the answers that are under
  // way have been taken, or `limit` has passed.
  virtual void Drain(absl::Duration limit) = 0;
  // Ends the server's thread. Exchanges may be used and dropped until the server is destroyed.
  virtual void Stop() = 0;
};

}  // namespace longspan

#endif  // LONGSPAN_RUNTIME_SERVER_HTTP_SERVER_H_
