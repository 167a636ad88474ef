#include "eval/methods.h"

#include <algorithm>
#include <numeric>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"

namespace longspan {
namespace {

void Esa(Config* config, Compression compression) {
  config->attention = Attention::kEsa;
  config->esa.compression = compression;
  config->esa.score = Score::kHeadSum;
  config->esa.unit_tokens = 1;
}

void Vote(Config* config, Score score) {
  Esa(config, score == Score::kGroupVote ? Compression::kLowRank : Compression::kExact);
  config->esa.score = score;
}

void Dense(Config* config, RopeStretch scaling) {
  config->attention = Attention::kDense;
  config->rope.scaling = scaling;
}

// InfLLM's 128 tokens (arXiv 2402.04617), or as many as all sizes are multiples of.
int64_t UnitTokens(const EsaConfig& esa) {
  int64_t unit = 128;
  for (const int64_t size :
       {esa.initial_tokens, esa.local_tokens, esa.top_k, esa.selection_block}) {
    unit = std::gcd(unit, size);
  }
  return unit;
}

constexpr EvalMethod kMethods[] = {
    {"dense", "all preceding tokens, at their true positions",
     [](Config* config) { Dense(config, RopeStretch::kNone); }},
    {"dense_ntk", "the same with a larger theta of RoPE",
     [](Config* config) { Dense(config, RopeStretch::kNtk); }},
    {"dense_yarn", "the same with RoPE stretched by YaRN",
     [](Config* config) { Dense(config, RopeStretch::kYarn); }},
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
    {"head_max", "selected by the head with the largest score",
     [](Config* config) { Vote(config, Score::kHeadMax); }},
    {"soft_vote", "selected by the sum of all heads' softmax",
     [](Config* config) { Vote(config, Score::kSoftVote); }},
    {"group_vote", "selected by the sum of the softmax of groups of compressed dimensions",
     [](Config* config) { Vote(config, Score::kGroupVote); }},
    {"block", "blocks of up to 128 tokens, selected by keys that represent them",
     [](Config* config) {
       Esa(config, Compression::kExact);
       config->esa.unit_tokens = UnitTokens(config->esa);
     }},
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
