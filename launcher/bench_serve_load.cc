#include "launcher/bench_serve_load.h"

#include <algorithm>
#include <boost/asio/co_spawn.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/redirect_error.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/asio/use_awaitable.hpp>
#include <chrono>
#include <cmath>
#include <exception>
#include <nlohmann/json.hpp>
#include <random>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "runtime/clock.h"

namespace longspan {
namespace {

namespace asio = boost::asio;
using boost::system::error_code;

constexpr double kTickSeconds = 0.1;

std::chrono::nanoseconds Nanoseconds(double seconds) {
  return std::chrono::duration_cast<std::chrono::nanoseconds>(
      std::chrono::duration<double>(seconds));
}

// Why a request failed, as it is counted, and what more there is to say.
struct Failure {
  std::string reason;
  std::string message;
};

Failure FailureOf(const HttpResult& result, const AnswerStream& answer, double timeout_s) {
  const std::string events = absl::StrCat("after ", answer.content_times().size(), " events");
  switch (result.end) {
    case HttpEnd::kCannotConnect:
      return result.refused ? Failure{"connection refused", ""}
                            : Failure{"cannot connect", result.error};
    case HttpEnd::kNoAnswer:
      return {"no HTTP answer", result.error};
    case HttpEnd::kTimeout:
      return {"timeout", absl::StrFormat("%s, at %g s", events, timeout_s)};
    default:
      break;
  }
  if (result.status != 200) {
    return {absl::StrCat("HTTP ", result.status), ServerMessage(result.body)};
  }
  if (!answer.error().empty()) return {"error event", answer.error()};
  if (!absl::StartsWithIgnoreCase(result.content_type, "text/event-stream")) {
    return {"not a stream of events", absl::StrCat("but `", result.content_type, "`")};
  }
  return {"stream cut before [DONE]", events};
}

class LoadRunner {
 public:
  LoadRunner(const ServeLoad& load, std::vector<ServeRequest> requests, Progress& progress,
             const std::function<bool()>& stop)
      : load_(load),
        requests_(std::move(requests)),
        progress_(progress),
        stop_(stop),
        running_(requests_.size(), nullptr),
        begin_(MonotonicSeconds()) {
    result_.records.resize(requests_.size());
  }

  absl::StatusOr<ServeLoadResult> Run() {
    Spawn(Dispatch());
    Spawn(Tick());
    io_.run();
    if (error_ != nullptr) std::rethrow_exception(error_);
    // Of a stopped run, what has been measured of it.
    result_.duration_s = Now();
    if (done_ == Total()) {
      result_.duration_s = 0;
      for (const ServeRecord& record : result_.records) {
        result_.duration_s = std::max(result_.duration_s, record.end_s);
      }
    }
    return std::move(result_);
  }

 private:
  int64_t Total() const { return static_cast<int64_t>(requests_.size()); }
  double Now() const { return MonotonicSeconds() - begin_; }

  void Spawn(asio::awaitable<void> work) {
    asio::co_spawn(io_, std::move(work), [this](const std::exception_ptr& error) {
      if (error == nullptr) return;
      error_ = error;
      io_.stop();
    });
  }

  // Starts each request when it has arrived and fewer than --max_concurrency run.
  asio::awaitable<void> Dispatch() {
    const std::vector<double> arrivals = ArrivalTimes(Total(), load_.request_rate, load_.seed);
    asio::steady_timer timer(io_);
    error_code ignored;
    for (size_t i = 0; i < requests_.size(); ++i) {
      // An hour at a time: a tiny rate has gaps that no clock can hold.
      for (double wait; (wait = arrivals[i] - Now()) > 0;) {
        timer.expires_after(Nanoseconds(std::min(wait, 3600.0)));
        co_await timer.async_wait(asio::redirect_error(asio::use_awaitable, ignored));
      }
      while (load_.max_concurrency > 0 && num_running_ >= load_.max_concurrency) {
        place_.expires_at(asio::steady_timer::time_point::max());  // until one ends
        co_await place_.async_wait(asio::redirect_error(asio::use_awaitable, ignored));
      }
      result_.max_concurrent_requests = std::max(result_.max_concurrent_requests, ++num_running_);
      Spawn(Send(i));
    }
  }

  asio::awaitable<void> Send(size_t i) {
    AnswerStream answer;
    running_[i] = &answer;
    ServeRecord& record = result_.records[i];
    record.start_s = Now();
    ClientRequest request = {load_.endpoint, std::move(requests_[i].body), load_.api_key,
                             load_.timeout_s};
    HttpSink sink = [&](absl::string_view bytes) { return answer.Feed(bytes, Now()); };
    const HttpResult result = co_await SendHttp(load_.server, std::move(request), std::move(sink));
    record.end_s = Now();
    running_[i] = nullptr;
    Finish(result, answer, &record);
    ++done_;
    --num_running_;
    place_.cancel();
    if (done_ == Total()) io_.stop();
  }

  void Finish(const HttpResult& result, const AnswerStream& answer, ServeRecord* record) {
    record->is_finished = true;
    record->is_answered = result.status != 0;
    record->content_s = answer.content_times();
    record->has_usage = answer.has_usage();
    record->input_tokens = answer.prompt_tokens();
    const auto events = static_cast<int64_t>(answer.content_times().size());
    record->output_tokens = answer.has_usage() ? answer.completion_tokens() : events;
    if (!answer.is_done()) {
      Failure failure = FailureOf(result, answer, load_.timeout_s);
      record->failure = std::move(failure.reason);
      record->message = std::move(failure.message);
    }
    prompt_tokens_ += record->input_tokens;
    generated_tokens_ += events;
  }

  asio::awaitable<void> Tick() {
    asio::steady_timer timer(io_);
    error_code ignored;
    while (!stop_()) {
      ShowProgress();
      timer.expires_after(Nanoseconds(kTickSeconds));
      co_await timer.async_wait(asio::redirect_error(asio::use_awaitable, ignored));
    }
    io_.stop();
  }

  void ShowProgress() {
    ProgressState state;
    state.done = done_;
    state.total = Total();
    state.prompt_tokens = prompt_tokens_;
    state.generated_tokens = generated_tokens_;
    auto units = static_cast<double>(done_);
    for (size_t i = 0; i < running_.size(); ++i) {
      if (running_[i] == nullptr) continue;
      const auto events = static_cast<int64_t>(running_[i]->content_times().size());
      state.generated_tokens += events;
      if (const int64_t expected = requests_[i].expected_tokens; expected > 0) {
        units += std::min(1.0, static_cast<double>(events) / static_cast<double>(expected));
      }
    }
    state.fraction = units / static_cast<double>(state.total);
    progress_.Update(state, MonotonicSeconds());
  }

  const ServeLoad& load_;
  std::vector<ServeRequest> requests_;
  Progress& progress_;
  const std::function<bool()>& stop_;
  ServeLoadResult result_;
  std::vector<const AnswerStream*> running_;  // by request; null: not now
  std::exception_ptr error_;
  int64_t num_running_ = 0;
  int64_t done_ = 0;
  int64_t prompt_tokens_ = 0;     // of finished requests
  int64_t generated_tokens_ = 0;  // events of finished requests
  double begin_;
  // The last members: coroutines that a stop has left suspended end with the context, and use the
  // others.
  asio::io_context io_{1};
  asio::steady_timer place_{io_};
};

constexpr absl::string_view kNameIt = "; --served_model names the model";

}  // namespace

std::vector<double> ArrivalTimes(int64_t count, double request_rate, uint64_t seed) {
  std::vector<double> times(count, 0);
  if (!std::isfinite(request_rate)) return times;
  std::mt19937_64 random(seed);
  for (size_t i = 1; i < times.size(); ++i) {
    const double uniform = static_cast<double>(random() >> 11) * 0x1p-53;  // below 1
    times[i] = times[i - 1] - std::log1p(-uniform) / request_rate;
  }
  return times;
}

absl::StatusOr<ServeLoadResult> RunServeLoad(const ServeLoad& load,
                                             std::vector<ServeRequest> requests, Progress& progress,
                                             const std::function<bool()>& stop) {
  try {
    return LoadRunner(load, std::move(requests), progress, stop).Run();
  } catch (const std::exception& error) {
    return absl::InternalError(error.what());
  }
}

absl::StatusOr<std::string> FirstServedModel(const ServeLoad& load) {
  HttpResult result;
  try {
    asio::io_context io(1);
    ClientRequest request = {"/v1/models", "", load.api_key, std::min(load.timeout_s, 60.0)};
    asio::co_spawn(io, SendHttp(load.server, std::move(request), nullptr),
                   [&](const std::exception_ptr& error, HttpResult got) {
                     if (error != nullptr) std::rethrow_exception(error);
                     result = std::move(got);
                   });
    io.run();
  } catch (const std::exception& error) {
    return absl::InternalError(error.what());
  }
  const std::string url = load.server.url.ToString() + "/v1/models";
  if (result.status == 0) {
    const absl::string_view why = result.end == HttpEnd::kTimeout ? "nothing answered in time"
                                                                  : absl::string_view(result.error);
    return absl::UnavailableError(
        absl::StrCat(url, ": ", why, "; start the server there, or give another --url"));
  }
  if (result.status == 401 || result.status == 403) {
    return absl::PermissionDeniedError(absl::StrCat(url, ": HTTP ", result.status, ": ",
                                                    ServerMessage(result.body),
                                                    "; --api_key or $OPENAI_API_KEY gives a key"));
  }
  if (result.status != 200) {
    return absl::FailedPreconditionError(
        absl::StrCat(url, ": HTTP ", result.status, ": ", ServerMessage(result.body), kNameIt));
  }
  const auto json = nlohmann::json::parse(result.body, nullptr, /*allow_exceptions=*/false);
  const nlohmann::json::json_pointer first("/data/0/id");
  if (!json.contains(first) || !json[first].is_string()) {
    return absl::FailedPreconditionError(absl::StrCat(url, ": is no list of models", kNameIt));
  }
  return json[first].get<std::string>();
}

}  // namespace longspan
