#include "runtime/server/metrics.h"

#include <prometheus/text_serializer.h>

namespace longspan {
namespace {

using Buckets = prometheus::Histogram::BucketBoundaries;

// Seconds: long contexts take minutes, decoded tokens milliseconds.
const Buckets kLatencies = {0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1,   2.5,  5,
                            10,   20,    40,   80,  160,  320, 640, 1280, 2560};
const Buckets kTokenLatencies = {0.001, 0.0025, 0.005, 0.0075, 0.01, 0.025, 0.05, 0.075,
                                 0.1,   0.15,   0.2,   0.3,    0.5,  0.75,  1,    2.5};
const Buckets kTokens = {1,     10,    100,    1000,   4096,   8192,    16384,
                         32768, 65536, 131072, 262144, 524288, 1048576, 4194304};

}  // namespace

prometheus::Counter* Metrics::MakeCounter(const char* name, const char* help,
                                          const prometheus::Labels& labels) {
  return &prometheus::BuildCounter().Name(name).Help(help).Labels(labels_).Register(registry_).Add(
      labels);
}

prometheus::Family<prometheus::Counter>* Metrics::MakeCounters(const char* name, const char* help) {
  return &prometheus::BuildCounter().Name(name).Help(help).Labels(labels_).Register(registry_);
}

prometheus::Gauge* Metrics::MakeGauge(const char* name, const char* help) {
  return &prometheus::BuildGauge().Name(name).Help(help).Labels(labels_).Register(registry_).Add(
      {});
}

prometheus::Histogram* Metrics::MakeHistogram(const char* name, const char* help,
                                              const Buckets& buckets) {
  return &prometheus::BuildHistogram()
              .Name(name)
              .Help(help)
              .Labels(labels_)
              .Register(registry_)
              .Add({}, buckets);
}

Metrics::Metrics(const std::string& model_name) : labels_{{"model_name", model_name}} {
  running_ = MakeGauge("longspan:num_requests_running", "Sequences being prefilled or decoded.");
  waiting_ = MakeGauge("longspan:num_requests_waiting", "Sequences that wait for a place.");
  cache_usage_ =
      MakeGauge("longspan:kv_cache_usage_perc",
                "Share of rank 0's cache pages that running sequences keep, so that no new one can "
                "have them; 1 is all.");
  prefix_usage_ = MakeGauge("longspan:prefix_cache_usage_perc",
                            "Share of rank 0's cache pages in the prefix cache, whether running "
                            "sequences share them or not.");
  prefix_queries_ = MakeCounter("longspan:prefix_cache_queries_total",
                                "Prompt tokens looked up in the prefix cache.");
  prefix_hits_ =
      MakeCounter("longspan:prefix_cache_hits_total", "Of them: found, and not prefilled again.");
  prompt_tokens_ =
      MakeCounter("longspan:prompt_tokens_total", "Prompt tokens, those in the cache included.");
  generation_tokens_ = MakeCounter("longspan:generation_tokens_total", "Tokens generated.");
  attended_keys_ = MakeCounter("longspan:attended_keys_total",
                               "Keys attended to, over queries and layers: the same for all ranks, "
                               "which know all selections.");
  dense_keys_ = MakeCounter("longspan:dense_keys_total",
                            "Keys that dense attention would have attended to instead.");
  ring_ = MakeCounters("longspan:ring_wait_seconds_total",
                       "Time of a rank's thread inside the collectives that move keys, queries and "
                       "partials; without what GPUs wait for by themselves.");
  merge_ = MakeCounters("longspan:merge_wait_seconds_total",
                        "The same of those that merge a selection.");
  auto& finished =
      *MakeCounters("longspan:request_success_total", "Sequences that ended, by the reason.");
  stopped_ = &finished.Add({{"finished_reason", "stop"}});
  cut_ = &finished.Add({{"finished_reason", "length"}});
  aborted_ = &finished.Add({{"finished_reason", "abort"}});
  first_token_ = MakeHistogram("longspan:time_to_first_token_seconds",
                               "From a request's arrival to its first token.", kLatencies);
  next_token_ = MakeHistogram("longspan:inter_token_latency_seconds",
                              "From one token of a sequence to the next.", kTokenLatencies);
  whole_ = MakeHistogram("longspan:e2e_request_latency_seconds",
                         "From a request's arrival to its last token.", kLatencies);
  queue_ = MakeHistogram("longspan:request_queue_time_seconds",
                         "From a request's arrival to its first prefill chunk.", kLatencies);
  prefill_ = MakeHistogram("longspan:request_prefill_time_seconds",
                           "From the first prefill chunk to the first token.", kLatencies);
  decode_ = MakeHistogram("longspan:request_decode_time_seconds",
                          "From the first token to the last.", kLatencies);
  prompt_sizes_ = MakeHistogram("longspan:request_prompt_tokens", "Tokens of a prompt.", kTokens);
  answer_sizes_ =
      MakeHistogram("longspan:request_generation_tokens", "Tokens of an answer.", kTokens);
  http_ = MakeCounters("longspan:http_responses_total", "HTTP answers, by status.");
}

std::string Metrics::Text() const {
  return prometheus::TextSerializer().Serialize(registry_.Collect());
}

void Metrics::SetEngine(const EngineLoad& load, const EngineStats& stats,
                        const std::vector<RankStats>& ranks) {
  running_->Set(static_cast<double>(load.running));
  waiting_->Set(static_cast<double>(load.waiting));
  const auto pages = static_cast<double>(load.total_pages);
  cache_usage_->Set(static_cast<double>(load.used_pages - load.evictable_pages) / pages);
  prefix_usage_->Set(static_cast<double>(load.cached_pages) / pages);
  const auto advance = [](prometheus::Counter* counter, auto to) {
    counter->Increment(static_cast<double>(to) - counter->Value());
  };
  advance(prefix_queries_, stats.prefix_query_tokens);
  advance(prefix_hits_, stats.prefix_hit_tokens);
  advance(attended_keys_, stats.attended_keys);
  advance(dense_keys_, stats.dense_keys);
  for (size_t r = ranks_.size(); r < ranks.size(); ++r) {
    const prometheus::Labels rank = {{"rank", std::to_string(r)}};
    ranks_.push_back({&ring_->Add(rank), &merge_->Add(rank)});
  }
  for (size_t r = 0; r < ranks.size(); ++r) {
    advance(ranks_[r].ring, ranks[r].ring_s);
    advance(ranks_[r].merge, ranks[r].merge_s);
  }
}

void Metrics::ObserveFirstToken(absl::Duration since_submitted) {
  first_token_->Observe(absl::ToDoubleSeconds(since_submitted));
}

void Metrics::ObserveNextToken(absl::Duration since_last) {
  next_token_->Observe(absl::ToDoubleSeconds(since_last));
}

void Metrics::ObserveFinished(const RequestUpdate& update, absl::Duration since_submitted) {
  const Completion& completion = update.completion;
  (completion.finish_reason == FinishReason::kStop ? stopped_ : cut_)->Increment();
  whole_->Observe(absl::ToDoubleSeconds(since_submitted));
  queue_->Observe(completion.timings.queue_s);
  prefill_->Observe(completion.timings.prefill_s);
  decode_->Observe(completion.timings.decode_s);
  prompt_sizes_->Observe(static_cast<double>(update.prompt_tokens));
  answer_sizes_->Observe(static_cast<double>(completion.tokens.size()));
}

void Metrics::CountHttp(int status) {
  http_->Add({{"status", std::to_string(status)}}).Increment();
}

}  // namespace longspan
