#ifndef LONGSPAN_LAUNCHER_EVAL_SETTINGS_H_
#define LONGSPAN_LAUNCHER_EVAL_SETTINGS_H_

#include <cstdint>
#include <nlohmann/json.hpp>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "launcher/eval_options.h"
#include "runtime/config.h"
#include "runtime/model_config.h"
#include "runtime/weights.h"

namespace longspan {

// What an evaluation is of.
struct EvalSubject {
  const Config& config;  // of the run, without a method
  const ModelConfig& model;
  ModelWeights weights;            // mapped
  std::vector<Config> methods;     // configs of EvalOptions::methods
  std::vector<std::string> tasks;  // labels
  std::vector<std::string> files;  // of each of them; empty: it has none
  int64_t cases_of_a_method = 0;
};

// Whether it selects by a compressor that is in a file.
bool NeedsCompressor(const Config& config);

// EvalData::description. Files, the model among them, are named by their checksums, so that they
// may lie elsewhere when an evaluation goes on. Reads all weights, with a progress bar.
absl::StatusOr<nlohmann::ordered_json> DescribeEval(const EvalOptions& options,
                                                    const EvalSubject& subject);

}  // namespace longspan

#endif  // LONGSPAN_LAUNCHER_EVAL_SETTINGS_H_
