#ifndef LONGSPAN_RUNTIME_SERVER_METRICS_H_
#define LONGSPAN_RUNTIME_SERVER_METRICS_H_

#include <prometheus/counter.h>
#include <prometheus/gauge.h>
#include <prometheus/histogram.h>
#include <prometheus/registry.h>

#include <cstdint>
#include <string>
#include <vector>

#include "absl/time/time.h"
#include "runtime/engine.h"

namespace longspan {

// Prometheus metrics of the server, named as vLLM's are but for the prefix `longspan:`. Safe to use
// from any thread.
class Metrics {
 public:
  explicit Metrics(const std::string& model_name);

  // The text exposition format, version 0.0.4.
  std::string Text() const;

  // By the engine's thread.
  void SetEngine(const EngineLoad& load, const EngineStats& stats,
                 const std::vector<RankStats>& ranks);
  void CountPromptTokens(int64_t tokens) { prompt_tokens_->Increment(static_cast<double>(tokens)); }
  void CountToken() { generation_tokens_->Increment(); }
  void ObserveFirstToken(absl::Duration since_submitted);
  void ObserveNextToken(absl::Duration since_last);
  void ObserveFinished(const RequestUpdate& update, absl::Duration since_submitted);
  void CountAborted() { aborted_->Increment(); }
  void CountHttp(int status);

 private:
  prometheus::Counter* MakeCounter(const char* name, const char* help,
                                   const prometheus::Labels& labels = {});
  prometheus::Family<prometheus::Counter>* MakeCounters(const char* name, const char* help);
  prometheus::Gauge* MakeGauge(const char* name, const char* help);
  prometheus::Histogram* MakeHistogram(const char* name, const char* help,
                                       const prometheus::Histogram::BucketBoundaries& buckets);

  prometheus::Registry registry_;
  const prometheus::Labels labels_;
  prometheus::Gauge *running_, *waiting_, *cache_usage_, *prefix_usage_;
  prometheus::Counter *prefix_queries_, *prefix_hits_;
  prometheus::Counter *prompt_tokens_, *generation_tokens_, *stopped_, *cut_, *aborted_;
  prometheus::Histogram *first_token_, *next_token_, *whole_, *queue_, *prefill_, *decode_;
  prometheus::Histogram *prompt_sizes_, *answer_sizes_;
  prometheus::Counter *attended_keys_, *dense_keys_;
  prometheus::Family<prometheus::Counter>*ring_, *merge_;
  struct RankCounters {
    prometheus::Counter *ring, *merge;
  };
  std::vector<RankCounters> ranks_;  // the engine's thread alone
  prometheus::Family<prometheus::Counter>* http_;
};

}  // namespace longspan

#endif  // LONGSPAN_RUNTIME_SERVER_METRICS_H_
