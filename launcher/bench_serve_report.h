#ifndef LONGSPAN_LAUNCHER_BENCH_SERVE_REPORT_H_
#define LONGSPAN_LAUNCHER_BENCH_SERVE_REPORT_H_

#include <cstdint>
#include <string>
#include <vector>

#include "launcher/bench_report.h"
#include "launcher/bench_serve_metrics.h"
#include "launcher/bench_serve_prompts.h"

namespace longspan {

struct ServeReport {
  std::string url;  // with the endpoint
  ServePrompts prompts;
  int64_t num_prompts = 0;
  double request_rate = 0;
  int64_t max_concurrency = 0;  // 0: none
  ServeSummary summary;
  std::vector<ServeRecord> records;  // of --detail
};

// Keys are those of `vllm bench serve` where it has the same.
std::string FormatServeReport(const ServeReport& report, ReportFormat format);

// "2 HTTP 429 (slow down), 1 timeout (after 3 events, at 5 s)", the first few.
std::string FailureText(const ServeSummary& summary);

}  // namespace longspan

#endif  // LONGSPAN_LAUNCHER_BENCH_SERVE_REPORT_H_
