#include "eval/methods.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"

namespace longspan {
namespace {

void Esa(Config* config, Compression compression) {
  config->attention = Attention::kEsa;
  config->esa.compression = compression;
}

constexpr EvalMethod kMethods[] = {
    {"dense", "all preceding tokens, at their true positions",
     [](Config* config) { config->attention = Attention::kDense; }},
    {"streaming", "the first and the latest tokens: the local window is longer by top_k",
     [](Config* config) {
       config->attention = Attention::kStreaming;
       config->esa.local_tokens += config->esa.top_k;
       // The first tokens stay as far away as the farthest of the window.
       config->esa.far_position = std::max(config->esa.far_position, config->esa.local_tokens);
     }},
    {"esa_exact", "selected by full scores",
     [](Config* config) { Esa(config, Compression::kExact); }},
    {"esa_low_rank", "selected by compressed scores",
     [](Config* config) { Esa(config, Compression::kLowRank); }},
};

}  // namespace

absl::Span<const EvalMethod> EvalMethods() { return kMethods; }

absl::StatusOr<std::vector<const EvalMethod*>> ParseEvalMethods(absl::string_view text) {
  std::vector<const EvalMethod*> methods;
  for (const absl::string_view name : absl::StrSplit(text, ',')) {
    const auto found = std::find_if(std::begin(kMethods), std::end(kMethods),
                                    [&](const EvalMethod& method) { return method.name == name; });
    if (found == std::end(kMethods)) {
      const auto append = [](std::string* out, const EvalMethod& method) {
        absl::StrAppend(out, method.name);
      };
      return absl::InvalidArgumentError(absl::StrCat("--method: there is no method `", name,
                                                     "`; there are ",
                                                     absl::StrJoin(kMethods, ", ", append)));
    }
    if (std::find(methods.begin(), methods.end(), found) != methods.end()) {
      return absl::InvalidArgumentError(absl::StrCat("--method names ", name, " twice"));
    }
    methods.push_back(found);
  }
  return methods;
}

absl::StatusOr<Config> MethodConfig(const Config& config, const EvalMethod& method,
                                    int64_t max_model_len) {
  Config changed = config;
  changed.max_model_len = max_model_len;
  method.apply(&changed);
  // Resolved for its ranks already: what is left are checks.
  const int64_t ranks = std::max<int64_t>(1, config.parallel.ranks);
  const absl::Status status = ResolveConfig(static_cast<int>(ranks), &changed);
  if (status.ok()) return changed;
  return absl::Status(status.code(),
                      absl::StrCat("--method ", method.name, ": ", status.message()));
}

}  // namespace longspan
