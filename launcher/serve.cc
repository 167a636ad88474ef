#include <spdlog/sinks/stdout_sinks.h>
#include <spdlog/spdlog.h>
#include <unistd.h>

#include <atomic>
#include <boost/asio/post.hpp>
#include <boost/asio/thread_pool.hpp>
#include <memory>
#include <utility>

#include "absl/cleanup/cleanup.h"
#include "absl/flags/flag.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "kernels/base/status_macros.h"
#include "launcher/bootstrap.h"
#include "launcher/flags.h"
#include "launcher/subcommand.h"
#include "runtime/answer_json.h"
#include "runtime/server/answer_threads.h"
#include "runtime/server/api.h"

namespace longspan {
namespace {

// Threads that encode prompts and refuse bad requests, and those that make answers. Ranks use the
// cores.
constexpr int kWorkers = 2;
constexpr int kAnswerThreads = 2;
// For clients to take the last answers.
constexpr absl::Duration kGoodbye = absl::Seconds(2);

// Rank 0's side of the server.
class ServeJob {
 public:
  // Listens before the model is loaded: a port that is taken is told at once, and /health answers.
  absl::StatusOr<bool> Prepare(const Config& config) {
    const ServerConfig& server = config.server;
    context_.model_name = server.model_name.empty() ? ModelName(config) : server.model_name;
    context_.started = UnixSeconds();
    LONGSPAN_ASSIGN_OR_RETURN(context_.keys, ApiKeys::Load(server.api_key_file));
    absl::StatusOr<ChatTemplate> chat_template = LoadTriedChatTemplate(config.model);
    if (chat_template.ok()) {
      context_.chat_template = *std::move(chat_template);
    } else if (!absl::IsNotFound(chat_template.status())) {
      return chat_template.status();
    }
    metrics_ = std::make_unique<Metrics>(context_.model_name);
    context_.metrics = metrics_.get();
    context_.answers = &answers_;
    context_.log = std::make_shared<spdlog::logger>(
        "requests", std::make_shared<spdlog::sinks::stderr_sink_mt>());
    context_.log->set_pattern("%v");
    context_.log->set_level(spdlog::get_level());
    const std::string flag_host = absl::GetFlag(FLAGS_host);
    const int64_t port = absl::GetFlag(FLAGS_port).value_or(server.port);
    const std::string host = flag_host.empty() ? server.host : flag_host;
    context_.only_local = context_.keys.empty() && IsLoopback(host);
    loading_ = context_;
    current_ = &loading_;

    HttpLimits limits;
    limits.max_body_bytes = server.max_body_bytes;
    limits.max_connections = server.max_connections;
    limits.body_timeout = absl::Seconds(server.body_timeout_s);
    HttpServer::Callbacks callbacks;
    callbacks.admit = [this](const HttpRequest& head) { return Admit(*current_.load(), head); };
    callbacks.refuse = [this](const HttpRequest& head, int status, const std::string& message) {
      return Refuse(*current_.load(), head, status, message);
    };
    callbacks.handle = [this](HttpRequest request, auto exchange) {
      Dispatch(std::move(request), std::move(exchange));
    };
    LONGSPAN_ASSIGN_OR_RETURN(
        http_, HttpServer::Start(host, static_cast<int>(port), limits, std::move(callbacks)));
    url_ =
        absl::StrCat("http://", absl::StrContains(host, ':') ? absl::StrCat("[", host, "]") : host,
                     ":", http_->port());
    if (context_.keys.empty() && !IsLoopback(host)) {
      spdlog::warn("{} can be reached from other machines, and asks for no API key", url_);
    }
    return true;
  }

  absl::StatusOr<int> Run(Engine& engine) {
    const Config& config = engine.config();
    ServingLoop::Limits limits;
    limits.max_num_seqs = config.max_num_seqs;
    limits.max_waiting = config.server.max_waiting;
    limits.timeout = absl::Seconds(config.server.request_timeout_s);
    limits.drain_limit = absl::Seconds(config.server.drain_timeout_s);
    ServingLoop loop(limits, metrics_.get());
    const PromptMaker prompts(engine.tokenizer(),
                              context_.chat_template ? &*context_.chat_template : nullptr,
                              config.max_model_len, config.server.default_max_tokens);
    // Requests under way use all of these: none may outlive them.
    const absl::Cleanup stop = [this] { Stop(); };
    context_.engine = &engine;
    context_.loop = &loop;
    context_.prompts = &prompts;
    current_ = &context_;
    // mpirun does not pass signals on as such: SIGTERM kills the ranks, and some versions keep
    // SIGUSR1 to themselves.
    spdlog::info("{} answers for {}, of up to {} tokens; kill {} stops it", url_,
                 context_.model_name, config.max_model_len, getpid());
    const absl::Status served = loop.Run(engine, StopRequested);
    answers_.Wait();
    http_->Drain(kGoodbye);
    LONGSPAN_RETURN_IF_ERROR(served);
    LONGSPAN_RETURN_IF_ERROR(engine.Shutdown().status());
    spdlog::info("stopped");
    return kExitOk;
  }

  ~ServeJob() { Stop(); }

 private:
  // Requests under way use the server, whose thread makes new ones.
  void Stop() {
    if (http_ != nullptr) http_->Stop();
    workers_.join();
    answers_.Wait();
    http_.reset();  // with the requests that nobody will answer
  }

  void Dispatch(HttpRequest request, std::shared_ptr<HttpExchange> exchange) {
    if (IsQuick(request)) return Answer(*current_.load(), std::move(request), std::move(exchange));
    boost::asio::post(
        workers_, [this, request = std::move(request), exchange = std::move(exchange)]() mutable {
          Answer(*current_.load(), std::move(request), std::move(exchange));
        });
  }

  ServerContext loading_, context_;
  std::atomic<const ServerContext*> current_;
  std::unique_ptr<Metrics> metrics_;
  std::string url_;
  std::unique_ptr<HttpServer> http_;
  AnswerThreads answers_{kAnswerThreads};
  boost::asio::thread_pool workers_{kWorkers};
};

absl::StatusOr<int> Serve(const std::vector<std::string>& positional) {
  if (!positional.empty()) {
    return absl::InvalidArgumentError("takes no arguments but flags, not " + positional[0]);
  }
  const int64_t port = absl::GetFlag(FLAGS_port).value_or(0);
  if (port < 0 || port > 65535) {
    return absl::InvalidArgumentError("--port must be from 0 to 65535");
  }
  LONGSPAN_RETURN_IF_ERROR(SetFlags().status());
  ServeJob job;
  return RunOnRanks(Job{[&job](const Config& config) { return job.Prepare(config); },
                        [&job](Engine& engine) { return job.Run(engine); },
                        /*is_server=*/true});
}

}  // namespace

Subcommand ServeSubcommand() {
  return {
      "serve",
      "--config FILE [--model DIR] [--host ADDRESS] [--port N] [--set key=value]...",
      "Answers the OpenAI API over HTTP. SIGTERM, SIGINT or SIGUSR1 to the process that the log\n"
      "      names: takes no more requests, ends those that run, as far as server.drain_timeout_s\n"
      "      lets it, saves the cache to kv_cache.prefix_dir, if that is set, and exits with 0.\n"
      "      Ctrl-C or SIGTERM to mpirun kills the ranks two seconds later, and it exits with 1.",
      {"config", "model", "host", "port", "set", "verbosity"},
      Serve};
}

}  // namespace longspan
