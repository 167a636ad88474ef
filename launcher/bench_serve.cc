#include <sys/resource.h>

#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <limits>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/flags/flag.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "collectives/mpi_communicator.h"
#include "kernels/base/status_macros.h"
#include "launcher/bench_report.h"
#include "launcher/bench_serve_load.h"
#include "launcher/bench_serve_prompts.h"
#include "launcher/bench_serve_report.h"
#include "launcher/bootstrap.h"
#include "launcher/flags.h"
#include "launcher/http_client.h"
#include "launcher/progress.h"
#include "launcher/subcommand.h"
#include "runtime/clock.h"

ABSL_FLAG(std::string, url, "",
          "The server, as in http://127.0.0.1:8000; a /v1 at its end is fine");
ABSL_FLAG(std::string, endpoint, "/v1/completions", "Or /v1/chat/completions");
ABSL_FLAG(std::string, served_model, "",
          "The model of the requests; by default the first that GET /v1/models lists");
ABSL_FLAG(std::optional<int64_t>, num_prompts, std::nullopt,
          "Requests to send (100 if not given, or each line of --dataset once; more than it has "
          "lines begin it again)");
ABSL_FLAG(double, request_rate, std::numeric_limits<double>::infinity(),
          "Requests/s, which arrive as a Poisson process; inf: all at once");
ABSL_FLAG(int64_t, max_concurrency, 0,
          "Requests under way at once, at most; those that arrive meanwhile wait, and that time is "
          "not theirs; 0: no limit");
ABSL_FLAG(std::optional<int64_t>, input_len, std::nullopt,
          "Tokens of a random prompt, about: words that most tokenizers have as one (1024 if not "
          "given)");
ABSL_FLAG(std::optional<int64_t>, output_len, std::nullopt,
          "Tokens of an answer, at most (128 if not given; with --dataset what its lines say)");
ABSL_FLAG(std::string, dataset, "",
          "JSONL in place of random prompts: bodies of requests, {\"prompt\": ...}, or lines of a "
          "batch file; checked before anything is sent");
ABSL_FLAG(int64_t, shared_prefix_len, 0,
          "How many of the --input_len tokens are the same in all prompts, for caches of prefixes");
ABSL_FLAG(bool, ignore_eos, false,
          "Asks for answers of full length; a parameter that not all servers know");
ABSL_FLAG(std::string, api_key, "", "Sent as a bearer token; by default $OPENAI_API_KEY");
ABSL_FLAG(double, timeout, 3600, "Seconds that a request may take");
ABSL_FLAG(bool, detail, false, "With --format json: each request's times too");

namespace longspan {
namespace {

constexpr absl::string_view kCompletions = "/v1/completions";
constexpr absl::string_view kChats = "/v1/chat/completions";

struct ServeOptions {
  HttpUrl url;
  ServeLoad load;
  ServePrompts prompts;
  ReportFormat format = ReportFormat::kTable;
  ProgressStyle progress = ProgressStyle::kOff;
  std::string output;
  bool detail = false;
};

absl::Status CheckRange(absl::string_view flag, int64_t value, int64_t least, int64_t most) {
  if (value >= least && value <= most) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat("--", flag, " must be from ", least, " to ", most, ", not ", value));
}

absl::StatusOr<ServePrompts> PromptsFromFlags() {
  constexpr int64_t kMost = 100'000'000;
  ServePrompts prompts;
  prompts.is_chat = absl::GetFlag(FLAGS_endpoint) == kChats;
  prompts.model = absl::GetFlag(FLAGS_served_model);
  prompts.overrides_model = !prompts.model.empty();
  prompts.num_prompts = absl::GetFlag(FLAGS_num_prompts);
  LONGSPAN_RETURN_IF_ERROR(
      CheckRange("num_prompts", prompts.num_prompts.value_or(1), 1, 10'000'000));
  prompts.output_len = absl::GetFlag(FLAGS_output_len);
  LONGSPAN_RETURN_IF_ERROR(CheckRange("output_len", prompts.output_len.value_or(1), 1, kMost));
  prompts.ignore_eos = absl::GetFlag(FLAGS_ignore_eos);
  LONGSPAN_RETURN_IF_ERROR(
      CheckRange("seed", absl::GetFlag(FLAGS_seed), 0, std::numeric_limits<int64_t>::max()));
  prompts.seed = static_cast<uint64_t>(absl::GetFlag(FLAGS_seed));
  prompts.dataset = absl::GetFlag(FLAGS_dataset);
  const std::optional<int64_t> input_len = absl::GetFlag(FLAGS_input_len);
  prompts.input_len = input_len.value_or(prompts.input_len);
  LONGSPAN_RETURN_IF_ERROR(CheckRange("input_len", prompts.input_len, 1, kMost));
  prompts.shared_prefix_len = absl::GetFlag(FLAGS_shared_prefix_len);
  if (!prompts.dataset.empty() && (input_len || prompts.shared_prefix_len != 0)) {
    return absl::InvalidArgumentError(
        "--input_len and --shared_prefix_len are of random prompts, not of a --dataset");
  }
  LONGSPAN_RETURN_IF_ERROR(
      CheckRange("shared_prefix_len", prompts.shared_prefix_len, 0, prompts.input_len));
  return prompts;
}

std::string ApiKey() {
  if (std::string key = absl::GetFlag(FLAGS_api_key); !key.empty()) return key;
  const char* key = getenv("OPENAI_API_KEY");
  return key == nullptr ? "" : key;
}

absl::StatusOr<ServeOptions> ServeOptionsFromFlags() {
  ServeOptions options;
  const std::string url = absl::GetFlag(FLAGS_url);
  if (url.empty()) {
    return absl::InvalidArgumentError("--url is needed, as in --url http://127.0.0.1:8000");
  }
  LONGSPAN_ASSIGN_OR_RETURN(options.url, ParseHttpUrl(url));
  // What OpenAI's clients call the base URL has it; the endpoint has it too.
  if (absl::EndsWith(options.url.path, "/v1")) {
    options.url.path.resize(options.url.path.size() - 3);
  }
  ServeLoad& load = options.load;
  load.endpoint = absl::GetFlag(FLAGS_endpoint);
  if (load.endpoint != kCompletions && load.endpoint != kChats) {
    return absl::InvalidArgumentError(
        absl::StrCat("--endpoint must be ", kCompletions, " or ", kChats, ", not ", load.endpoint));
  }
  load.request_rate = absl::GetFlag(FLAGS_request_rate);
  if (!(load.request_rate > 0)) {
    return absl::InvalidArgumentError("--request_rate must be above 0, or inf");
  }
  load.max_concurrency = absl::GetFlag(FLAGS_max_concurrency);
  LONGSPAN_RETURN_IF_ERROR(CheckRange("max_concurrency", load.max_concurrency, 0, 1'000'000));
  load.timeout_s = absl::GetFlag(FLAGS_timeout);
  constexpr double kMostSeconds = 1e7;
  if (!(load.timeout_s > 0 && load.timeout_s <= kMostSeconds)) {
    return absl::InvalidArgumentError(
        absl::StrFormat("--timeout must be above 0, and at most %.0f", kMostSeconds));
  }
  load.api_key = ApiKey();
  for (const char c : load.api_key) {
    if (c <= ' ' || c > '~') {
      return absl::InvalidArgumentError("--api_key has characters that no header can have");
    }
  }
  LONGSPAN_ASSIGN_OR_RETURN(options.prompts, PromptsFromFlags());
  load.seed = options.prompts.seed;
  LONGSPAN_ASSIGN_OR_RETURN(options.format, ParseReportFormat(absl::GetFlag(FLAGS_format)));
  LONGSPAN_ASSIGN_OR_RETURN(options.progress, ParseProgressStyle(absl::GetFlag(FLAGS_progress)));
  options.output = absl::GetFlag(FLAGS_output);
  options.detail = absl::GetFlag(FLAGS_detail);
  if (options.detail && options.format != ReportFormat::kJson) {
    return absl::InvalidArgumentError("--detail needs --format json");
  }
  return options;
}

// A connection is a file, and the usual limit is 1,024 of them.
void AllowManyConnections() {
  rlimit limit;
  if (getrlimit(RLIMIT_NOFILE, &limit) != 0) return;
  limit.rlim_cur = limit.rlim_max;
  setrlimit(RLIMIT_NOFILE, &limit);  // if not, connections fail, and say so
}

// The exit code of a run that is over, and what standard error is told of it.
int Conclude(const ServeOptions& options, const ServeSummary& summary) {
  if (summary.unfinished > 0) {
    fprintf(stderr, "longspan: stopped by a signal with %d requests not finished\n",
            static_cast<int>(summary.unfinished));
    return kExitFailed;
  }
  if (summary.failed == 0) return kExitOk;
  if (options.format != ReportFormat::kTable || !options.output.empty()) {
    fprintf(stderr, "longspan: %d of %d requests failed: %s\n", static_cast<int>(summary.failed),
            static_cast<int>(summary.failed + summary.completed), FailureText(summary).c_str());
  }
  return kExitSomeErrors;
}

absl::StatusOr<int> Measure(ServeOptions options) {
  LONGSPAN_RETURN_IF_ERROR(CheckReportPath(options.output));
  ServePrompts& prompts = options.prompts;
  std::vector<std::string> lines;
  if (!prompts.dataset.empty()) {
    LONGSPAN_ASSIGN_OR_RETURN(lines, ReadDataset(prompts.dataset, prompts.is_chat));
  }
  LONGSPAN_ASSIGN_OR_RETURN(options.load.server, FindServer(options.url));
  if (prompts.model.empty()) {
    LONGSPAN_ASSIGN_OR_RETURN(prompts.model, FirstServedModel(options.load));
  }
  if (lines.empty()) prompts.output_len = prompts.output_len.value_or(kDefaultOutputLen);
  std::vector<ServeRequest> requests = MakeServeRequests(prompts, lines);

  ServeReport report;
  report.url = options.url.ToString() + options.load.endpoint;
  report.prompts = prompts;
  report.num_prompts = static_cast<int64_t>(requests.size());
  report.request_rate = options.load.request_rate;
  report.max_concurrency = options.load.max_concurrency;

  AllowManyConnections();
  CatchStopSignals();
  ServeLoadResult result;
  {
    Progress progress(options.progress, stderr, MonotonicSeconds());
    LONGSPAN_ASSIGN_OR_RETURN(
        result, RunServeLoad(options.load, std::move(requests), progress, StopRequested));
  }
  report.summary = SummarizeServe(result.records, result.duration_s);
  report.summary.max_concurrent_requests = result.max_concurrent_requests;
  if (report.summary.answered == 0 && report.summary.failed > 0) {
    return absl::UnavailableError(
        absl::StrCat(report.url, ": no request was answered: ", FailureText(report.summary),
                     "; start the server there, or give another --url or a longer --timeout"));
  }
  if (options.detail) report.records = std::move(result.records);
  LONGSPAN_RETURN_IF_ERROR(WriteReport(FormatServeReport(report, options.format), options.output));
  return Conclude(options, report.summary);
}

absl::StatusOr<int> BenchServe(const std::vector<std::string>& positional) {
  if (LaunchedByMpirun()) {
    return absl::InvalidArgumentError("requests are sent by one process, without mpirun");
  }
  if (!positional.empty()) {
    return absl::InvalidArgumentError(absl::StrCat("unexpected argument ", positional[0]));
  }
  LONGSPAN_ASSIGN_OR_RETURN(ServeOptions options, ServeOptionsFromFlags());
  const absl::StatusOr<int> exit_code = Measure(std::move(options));
  return exit_code.ok() ? *exit_code : ReportError(exit_code.status(), 0);
}

}  // namespace

Subcommand BenchServeSubcommand() {
  return {"bench serve",
          "--url http://HOST:PORT [--endpoint /v1/chat/completions] [--num_prompts N]\n          "
          "[--request_rate R] [--max_concurrency N] [--input_len N] [--output_len N]\n          "
          "[--dataset FILE] [--format table|csv|json] [--output FILE]",
          "Loads an OpenAI-compatible server, any, with requests whose answers are streamed, and "
          "tells its\n      throughput and latencies. Each request has a connection of its own, "
          "whose opening counts.\n      The exit code is 0 if all succeeded, 3 if some failed, 1 "
          "if nothing "
          "answered.",
          {"url", "endpoint", "served_model", "num_prompts", "request_rate", "max_concurrency",
           "input_len", "output_len", "shared_prefix_len", "dataset", "seed", "ignore_eos",
           "api_key", "timeout", "format", "output", "detail", "progress", "verbosity"},
          BenchServe};
}

}  // namespace longspan
