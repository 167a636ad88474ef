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

void Dense(Config* config) { config->attention = Attention::kDense; }

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
    {"dense", "all preceding tokens, at their true positions", Dense},
    {"dense_ntk", "all preceding tokens, with a larger theta of RoPE", Dense, RopeStretch::kNtk},
    {"dense_yarn", "all preceding tokens, with RoPE stretched by YaRN", Dense, RopeStretch::kYarn},
    {"streaming", "the first and the latest tokens: the local window is longer by esa.top_k",
     [](Config* config) {
       config->attention = Attention::kStreaming;
       config->esa.local_tokens += config->esa.top_k;
       // The first tokens stay as far away as the farthest of the window.
       config->esa.far_position = std::max(config->esa.far_position, config->esa.local_tokens);
     }},
    {"esa_exact", "what is selected by full scores",
     [](Config* config) { Esa(config, Compression::kExact); }},
    {"esa_low_rank", "what is selected by compressed scores",
     [](Config* config) { Esa(config, Compression::kLowRank); }},
    {"head_max", "what is selected by the head with the largest score",
     [](Config* config) { Vote(config, Score::kHeadMax); }},
    {"soft_vote", "what is selected by the sum of all heads' softmax",
     [](Config* config) { Vote(config, Score::kSoftVote); }},
    {"group_vote", "what is selected by the sum of the softmax of groups of compressed dimensions",
     [](Config* config) { Vote(config, Score::kGroupVote); }},
    {"block", "blocks of tokens, selected by keys that represent them",
     [](Config* config) {
       Esa(config, Compression::kExact);
       config->esa.unit_tokens = UnitTokens(config->esa);
     },
     RopeStretch::kNone, /*least_unit=*/16},
};

// What the attention of a method depends on.
std::vector<absl::string_view> KeysOf(const Config& config) {
  if (config.attention == Attention::kDense) {
    if (config.rope.scaling == RopeStretch::kNone) return {"attention"};
    return {"attention", "rope.scaling", "rope.factor"};
  }
  std::vector<absl::string_view> keys = {"attention",        "esa.initial_tokens",
                                         "esa.local_tokens", "esa.selection_block",
                                         "esa.positions",    "esa.far_position"};
  if (config.attention == Attention::kStreaming) return keys;
  keys.insert(keys.end(),
              {"esa.top_k", "esa.proximity", "esa.score", "esa.target", "esa.compression"});
  if (config.esa.compression == Compression::kLowRank) keys.push_back("esa.compressed_dim");
  if (config.esa.score == Score::kGroupVote) keys.push_back("esa.score_groups");
  if (config.esa.unit_tokens > 1) {
    keys.insert(keys.end(), {"esa.unit_tokens", "esa.unit_representatives"});
  }
  return keys;
}

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
                                    int64_t max_model_len, int64_t trained_context) {
  Config changed = config;
  changed.max_model_len = max_model_len;
  method.apply(&changed);
  if (changed.esa.unit_tokens < method.least_unit) {
    return absl::InvalidArgumentError(absl::StrCat(
        "--method ", method.name, ": `esa.initial_tokens`, `esa.local_tokens`, `esa.top_k` and ",
        "`esa.selection_block` are all multiples of ", changed.esa.unit_tokens,
        " tokens and of no more, too few for a block; make them multiples of ", method.least_unit));
  }
  changed.rope.scaling = method.stretch;
  if (method.stretch == RopeStretch::kNone) {
    changed.rope.factor = 0;
  } else if (changed.rope.factor == 0) {
    changed.rope.factor =
        std::max(1.0, static_cast<double>(max_model_len) / static_cast<double>(trained_context));
  }
  // Resolved for its ranks already: what is left are checks.
  const int64_t ranks = std::max<int64_t>(1, config.parallel.ranks);
  const absl::Status status = ResolveConfig(static_cast<int>(ranks), &changed);
  if (status.ok()) return changed;
  return absl::Status(status.code(),
                      absl::StrCat("--method ", method.name, ": ", status.message()));
}

nlohmann::ordered_json ConfigJson(const Config& config, absl::string_view key) {
  const std::string yaml = ConfigValue(config, key);
  auto json = nlohmann::ordered_json::parse(yaml, nullptr, /*allow_exceptions=*/false);
  return json.is_discarded() ? nlohmann::ordered_json(yaml) : json;
}

nlohmann::ordered_json MethodSettings(const EvalMethod& method, const Config& config) {
  nlohmann::ordered_json settings = {{"attends_to", method.attends_to}};
  for (const absl::string_view key : KeysOf(config)) {
    settings[std::string(key)] = ConfigJson(config, key);
  }
  return settings;
}

}  // namespace longspan
