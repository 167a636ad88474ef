#ifndef LONGSPAN_EVAL_METHODS_H_
#define LONGSPAN_EVAL_METHODS_H_

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
  absl::string_view summary;
  void (*apply)(Config* config);
};

absl::Span<const EvalMethod> EvalMethods();

// Names separated by commas. InvalidArgument: there is no such method, or it is named twice.
absl::StatusOr<std::vector<const EvalMethod*>> ParseEvalMethods(absl::string_view text);

// A resolved config with the method, for cases of up to `max_model_len` tokens. InvalidArgument:
// the config has settings that the method cannot have.
absl::StatusOr<Config> MethodConfig(const Config& config, const EvalMethod& method,
                                    int64_t max_model_len);

}  // namespace longspan

#endif  // LONGSPAN_EVAL_METHODS_H_
