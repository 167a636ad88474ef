#ifndef LONGSPAN_RUNTIME_SERVER_API_H_
#define LONGSPAN_RUNTIME_SERVER_API_H_

#include <memory>
#include <optional>
#include <string>

#include "absl/strings/string_view.h"
#include "runtime/server/call.h"
#include "runtime/server/http_server.h"

// The OpenAI API and what stands around it: which request means what. Read completions.h next.
namespace longspan {

// Whether a `Host`, with or without a port, or an address is this machine's own.
bool IsLoopback(absl::string_view host);

// Whether Answer of it takes no time, so that any thread may call it.
bool IsQuick(const HttpRequest& request);

// What refuses a request of which only the head is there, logged and counted; nullopt: nothing.
std::optional<HttpResponse> Admit(const ServerContext& context, const HttpRequest& head);
// The answer to a request that cannot be read, logged and counted too.
HttpResponse Refuse(const ServerContext& context, const HttpRequest& head, int status,
                    const std::string& message);

// Answers a request, now or later. Called on a thread that may be kept busy for a while, as
// encoding a long prompt does.
void Answer(const ServerContext& context, HttpRequest request,
            std::shared_ptr<HttpExchange> exchange);

}  // namespace longspan

#endif  // LONGSPAN_RUNTIME_SERVER_API_H_
