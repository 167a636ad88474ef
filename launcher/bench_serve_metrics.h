#ifndef LONGSPAN_LAUNCHER_BENCH_SERVE_METRICS_H_
#define LONGSPAN_LAUNCHER_BENCH_SERVE_METRICS_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"
#include "launcher/sse.h"

// What `longspan bench serve` measures. Names and definitions are those of `vllm bench serve`.
namespace longspan {

// The streamed answer of an OpenAI-compatible server, of completions or of chats.
class AnswerStream {
 public:
  // Takes bytes that arrived at `now`, in seconds of any origin; false once nothing can follow:
  // after [DONE], or an error.
  bool Feed(absl::string_view bytes, double now);

  bool is_done() const { return is_done_; }            // [DONE] came
  const std::string& error() const { return error_; }  // of an event; empty: none
  // When the events came that have some of the answer: its text, reasoning or tool calls.
  const std::vector<double>& content_times() const { return content_times_; }
  bool has_usage() const { return has_usage_; }
  int64_t prompt_tokens() const { return prompt_tokens_; }  // of the usage; 0 without one
  int64_t completion_tokens() const { return completion_tokens_; }

 private:
  void Take(const SseEvent& event, double now);

  SseParser parser_;
  bool is_done_ = false;
  std::string error_;
  std::vector<double> content_times_;
  bool has_usage_ = false;
  int64_t prompt_tokens_ = 0;
  int64_t completion_tokens_ = 0;
};

// The message in the body of an error response, in one line, whichever way the server words it.
std::string ServerMessage(absl::string_view body);

// What became of one request. Times are in seconds since the first.
struct ServeRecord {
  bool is_finished = false;  // false: the run was stopped before
  bool is_answered = false;  // the server said anything at all
  std::string failure;       // "HTTP 429", "timeout"; empty: it succeeded
  std::string message;       // more of the failure
  double start_s = 0;
  double end_s = 0;
  std::vector<double> content_s;  // when parts of the answer came
  int64_t input_tokens = 0;
  int64_t output_tokens = 0;  // of the usage, or else events with content
  bool has_usage = false;

  bool succeeded() const { return is_finished && failure.empty(); }
};

// Of all samples in milliseconds; NaN if there are none.
struct Distribution {
  double mean = 0, median = 0, p90 = 0, p95 = 0, p99 = 0, max = 0;
};
Distribution Distribute(std::vector<double> samples);
// Between the two nearest of the sorted samples, of which there is at least one, as numpy has it.
double Percentile(const std::vector<double>& sorted, double percent);

struct FailureCount {
  std::string reason;
  int64_t count = 0;
  std::string message;  // of the first
};

struct ServeSummary {
  double duration_s = 0;
  int64_t completed = 0;
  int64_t failed = 0;
  int64_t answered = 0;  // of both, those that the server said anything to
  int64_t unfinished = 0;
  int64_t without_usage = 0;  // of those completed
  int64_t total_input_tokens = 0;
  int64_t total_output_tokens = 0;
  int64_t max_concurrent_requests = 0;
  Distribution ttft_ms;  // time to the first token
  Distribution tpot_ms;  // time per output token after the first, one sample a request
  Distribution itl_ms;   // between events with content
  Distribution e2el_ms;  // from the request to the end of its answer
  std::vector<FailureCount> failures;  // the most frequent first
};
ServeSummary SummarizeServe(const std::vector<ServeRecord>& records, double duration_s);

// The samples of one request; negative: there is none.
double TimeToFirstToken(const ServeRecord& record);
double TimePerOutputToken(const ServeRecord& record);

}  // namespace longspan

#endif  // LONGSPAN_LAUNCHER_BENCH_SERVE_METRICS_H_
