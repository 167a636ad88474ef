#ifndef LONGSPAN_LAUNCHER_BENCH_SERVE_LOAD_H_
#define LONGSPAN_LAUNCHER_BENCH_SERVE_LOAD_H_

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "launcher/bench_serve_metrics.h"
#include "launcher/bench_serve_prompts.h"
#include "launcher/http_client.h"
#include "launcher/progress.h"

namespace longspan {

struct ServeLoad {
  ServerAddress server;
  std::string endpoint;  // "/v1/completions"
  std::string api_key;
  double request_rate = 0;      // requests/s; infinite: all at once
  int64_t max_concurrency = 0;  // 0: no limit
  double timeout_s = 0;         // of a request
  uint64_t seed = 0;            // of the times of arrival
};

struct ServeLoadResult {
  std::vector<ServeRecord> records;  // in the order of the requests
  double duration_s = 0;             // from the first request to the end of the last
  int64_t max_concurrent_requests = 0;
};

// Sends the requests at their times and waits for all answers, on this thread; or until `stop`.
absl::StatusOr<ServeLoadResult> RunServeLoad(const ServeLoad& load,
                                             std::vector<ServeRequest> requests, Progress& progress,
                                             const std::function<bool()>& stop);

// When each of `count` requests comes, in seconds after the first: a Poisson process.
std::vector<double> ArrivalTimes(int64_t count, double request_rate, uint64_t seed);

// The first model that the server lists.
absl::StatusOr<std::string> FirstServedModel(const ServeLoad& load);

}  // namespace longspan

#endif  // LONGSPAN_LAUNCHER_BENCH_SERVE_LOAD_H_
