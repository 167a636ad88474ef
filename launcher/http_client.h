#ifndef LONGSPAN_LAUNCHER_HTTP_CLIENT_H_
#define LONGSPAN_LAUNCHER_HTTP_CLIENT_H_

#include <boost/asio/awaitable.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <functional>
#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

// HTTP/1.1 without TLS, as coroutines of Boost.Asio.
namespace longspan {

struct HttpUrl {
  std::string host;  // IPv6 without its brackets
  std::string port;
  std::string path;  // "/prefix", or empty

  std::string ToString() const;
};
// Of `http://HOST[:PORT][/PATH]`. InvalidArgument says what is wrong with it.
absl::StatusOr<HttpUrl> ParseHttpUrl(absl::string_view url);

// Where a server listens, looked up once: a benchmark is not to measure its name server.
struct ServerAddress {
  HttpUrl url;
  boost::asio::ip::tcp::resolver::results_type endpoints;
};
absl::StatusOr<ServerAddress> FindServer(HttpUrl url);

struct ClientRequest {
  std::string path;  // behind the URL's
  std::string body;  // application/json, by POST; empty: a GET
  std::string api_key;
  double timeout_s = 60;  // of everything, from connecting on
};

enum class HttpEnd {
  kComplete,       // the whole response is there
  kStopped,        // the sink wanted no more
  kCannotConnect,  // `error` says why, as in the next two
  kNoAnswer,       // the connection ended before the response's header
  kCut,            // or within its body
  kTimeout,
};

struct HttpResult {
  HttpEnd end = HttpEnd::kComplete;
  bool refused = false;  // of kCannotConnect
  int status = 0;        // 0: no header came
  std::string content_type;
  std::string body;  // what went to no sink, at most its first mebibyte
  std::string error;
};

// Takes the body of a response of status 200 piece by piece, when it arrives; false: enough of it.
using HttpSink = std::function<bool(absl::string_view bytes)>;

// One request, on a connection of its own. Without a sink the body goes to the result.
boost::asio::awaitable<HttpResult> SendHttp(const ServerAddress& server, ClientRequest request,
                                            HttpSink sink);

}  // namespace longspan

#endif  // LONGSPAN_LAUNCHER_HTTP_CLIENT_H_
