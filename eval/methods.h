#ifndef LONGSPAN_EVAL_METHODS_H_
#define LONGSPAN_EVAL_METHODS_H_

#include <cstdint>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "runtime/config.h"

namespace longspan {

// A way to attend, as a change of the run's config. All but dense attention attend to the same
// number of tokens.
struct EvalMethod {
  absl::string_view name;
  absl::string_view attends_to;  // in words
  void (*apply)(Config* config);
  RopeStretch stretch = RopeStretch::kNone;
  int64_t least_unit = 1;  // tokens that are selected together
};

absl::Span<const EvalMethod> EvalMethods();

// Names separated by commas. InvalidArgument: there is no such method, or it is named twice.
absl::StatusOr<std::vector<const EvalMethod*>> ParseEvalMethods(absl::string_view text);

// A resolved config with the method, for cases of up to `max_model_len` tokens, which a model of
// `trained_context` tokens is stretched to unless the config has a `rope.factor`. InvalidArgument:
// the config has settings that the method cannot have.
absl::StatusOr<Config> MethodConfig(const Config& config, const EvalMethod& method,
                                    int64_t max_model_len, int64_t trained_context);

// What a key of the config is, as a JSON value.
nlohmann::ordered_json ConfigJson(const Config& config, absl::string_view key);

// What the method is, for a report: `attends_to` and the keys of its config that say how.
nlohmann::ordered_json MethodSettings(const EvalMethod& method, const Config& config);

}  // namespace longspan

#endif  // LONGSPAN_EVAL_METHODS_H_
