#include "runtime/method_checks.h"

#include <string>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "kernels/base/status_macros.h"

namespace longspan {
namespace {

// Scores read either keys of heads or compressed ones.
absl::Status CheckScore(const Config& config) {
  const EsaConfig& esa = config.esa;
  const std::string key = absl::StrCat("`esa.score: ", ConfigValue(config, "esa.score"), "`");
  if (esa.score == Score::kHeadSum) return absl::OkStatus();
  if (esa.score != Score::kGroupVote) {
    if (esa.compression == Compression::kExact) return absl::OkStatus();
    return absl::InvalidArgumentError(
        absl::StrCat(key,
                     " reads the keys of each head: set `esa.compression: exact`, or use "
                     "head_sum or group_vote"));
  }
  if (esa.compression == Compression::kExact) {
    return absl::InvalidArgumentError(
        absl::StrCat(key,
                     " is of compressed dimensions: set `esa.compression: low_rank`, or use "
                     "soft_vote"));
  }
  if (esa.compressed_dim % esa.score_groups != 0) {
    return absl::InvalidArgumentError(
        absl::StrFormat("%s: `esa.compressed_dim` (%d) must be a multiple of `esa.score_groups` "
                        "(%d)",
                        key, esa.compressed_dim, esa.score_groups));
  }
  return absl::OkStatus();
}

absl::Status CheckTarget(const Config& config) {
  const EsaConfig& esa = config.esa;
  if (esa.target == ScoreTarget::kDot) return absl::OkStatus();
  if (esa.positions != Positions::kFar) {
    return absl::InvalidArgumentError(
        "`esa.target: far` scores for attention at `esa.far_position`: it needs `esa.positions: "
        "far`");
  }
  return absl::OkStatus();
}

absl::Status CheckUnits(const Config& config) {
  const EsaConfig& esa = config.esa;
  if (esa.unit_tokens == 1) return absl::OkStatus();
  if (config.device == "cuda") {
    return absl::InvalidArgumentError(
        "`esa.unit_tokens` above 1 is of CPU ranks: use 1, or `device: cpu`");
  }
  if (esa.score != Score::kHeadSum) {
    return absl::InvalidArgumentError(
        "`esa.unit_tokens` above 1 needs `esa.score: head_sum`: units are scored by the mean of "
        "their representatives");
  }
  if (esa.unit_representatives > esa.unit_tokens) {
    return absl::InvalidArgumentError(
        absl::StrFormat("`esa.unit_representatives` (%d) must be at most `esa.unit_tokens` (%d)",
                        esa.unit_representatives, esa.unit_tokens));
  }
  struct Multiple {
    const char* key;
    int64_t tokens;
  };
  for (const auto& [key, tokens] : {Multiple{"esa.initial_tokens", esa.initial_tokens},
                                    {"esa.local_tokens", esa.local_tokens},
                                    {"esa.top_k", esa.top_k},
                                    {"esa.selection_block", esa.selection_block}}) {
    if (tokens % esa.unit_tokens == 0) continue;
    return absl::InvalidArgumentError(absl::StrFormat(
        "`%s` (%d) must be a multiple of `esa.unit_tokens` (%d)", key, tokens, esa.unit_tokens));
  }
  return absl::OkStatus();
}

absl::Status CheckRope(const Config& config) {
  if (config.rope.scaling == RopeStretch::kNone) {
    if (config.rope.factor == 0) return absl::OkStatus();
    return absl::InvalidArgumentError(
        "`rope.factor` is that of `rope.scaling`: set it to ntk or yarn, or leave the factor out");
  }
  if (config.attention != Attention::kDense) {
    return absl::InvalidArgumentError(
        "`rope.scaling` is a way of dense attention beyond the trained context: set `attention: "
        "dense`, or leave it out");
  }
  if (config.rope.factor == 0 && config.max_model_len == 0) {
    return absl::InvalidArgumentError(
        "`rope.scaling` stretches the model to `max_model_len`: state that, or `rope.factor`");
  }
  return absl::OkStatus();
}

}  // namespace

absl::Status CheckMethod(const Config& config) {
  LONGSPAN_RETURN_IF_ERROR(CheckScore(config));
  LONGSPAN_RETURN_IF_ERROR(CheckTarget(config));
  LONGSPAN_RETURN_IF_ERROR(CheckUnits(config));
  return CheckRope(config);
}

}  // namespace longspan
