#include "runtime/rope_config.h"

#include <algorithm>
#include <cmath>
#include <numbers>
#include <string>

#include "absl/strings/str_cat.h"
#include "kernels/base/status_macros.h"

namespace longspan {
namespace {

using Json = nlohmann::json;

absl::Status ReadOriginalContext(const JsonFields& block, int64_t max_position_embeddings,
                                 RopeConfig* rope) {
  rope->original_context = max_position_embeddings;
  constexpr char kKey[] = "original_max_position_embeddings";
  if (!block.Has(kKey)) return absl::OkStatus();
  LONGSPAN_ASSIGN_OR_RETURN(rope->original_context, block.Integer(kKey, 1, int64_t{1} << 40));
  return absl::OkStatus();
}

absl::Status ReadNone(const JsonFields&, int64_t, RopeConfig*) { return absl::OkStatus(); }

absl::Status ReadLinear(const JsonFields& block, int64_t, RopeConfig* rope) {
  LONGSPAN_ASSIGN_OR_RETURN(rope->factor, block.Positive("factor"));
  return absl::OkStatus();
}

absl::Status ReadLlama3(const JsonFields& block, int64_t max_position_embeddings,
                        RopeConfig* rope) {
  LONGSPAN_RETURN_IF_ERROR(ReadOriginalContext(block, max_position_embeddings, rope));
  LONGSPAN_ASSIGN_OR_RETURN(rope->factor, block.Positive("factor"));
  LONGSPAN_ASSIGN_OR_RETURN(rope->low_freq_factor, block.Positive("low_freq_factor"));
  LONGSPAN_ASSIGN_OR_RETURN(rope->high_freq_factor, block.Positive("high_freq_factor"));
  if (rope->high_freq_factor > rope->low_freq_factor) return absl::OkStatus();
  return block.Invalid("high_freq_factor",
                       absl::StrCat("more than low_freq_factor, ", rope->low_freq_factor));
}

// 0.1 m ln(s) + 1, the paper's sqrt(1/t) with a weight on the logarithm.
double YarnSharpness(double factor, double weight) {
  return factor <= 1 ? 1 : 0.1 * weight * std::log(factor) + 1;
}

absl::Status ReadYarn(const JsonFields& block, int64_t max_position_embeddings, RopeConfig* rope) {
  LONGSPAN_RETURN_IF_ERROR(ReadOriginalContext(block, max_position_embeddings, rope));
  LONGSPAN_ASSIGN_OR_RETURN(
      rope->factor, block.PositiveOr("factor", static_cast<double>(max_position_embeddings) /
                                                   static_cast<double>(rope->original_context)));
  LONGSPAN_ASSIGN_OR_RETURN(rope->beta_fast, block.PositiveOr("beta_fast", 32));
  LONGSPAN_ASSIGN_OR_RETURN(rope->beta_slow, block.PositiveOr("beta_slow", 1));
  LONGSPAN_ASSIGN_OR_RETURN(rope->truncate, block.BoolOr("truncate", true));
  double sharpness = YarnSharpness(rope->factor, 1);
  if (block.Has("mscale") && block.Has("mscale_all_dim")) {
    LONGSPAN_ASSIGN_OR_RETURN(const double mscale, block.Positive("mscale"));
    LONGSPAN_ASSIGN_OR_RETURN(const double all_dim, block.Positive("mscale_all_dim"));
    sharpness = YarnSharpness(rope->factor, mscale) / YarnSharpness(rope->factor, all_dim);
  }
  LONGSPAN_ASSIGN_OR_RETURN(rope->attention_factor,
                            block.PositiveOr("attention_factor", sharpness));
  return absl::OkStatus();
}

struct ScalingType {
  const char* name;  // in `rope_type`
  RopeScaling scaling;
  absl::Status (*read)(const JsonFields& block, int64_t max_position_embeddings, RopeConfig* rope);
};
constexpr ScalingType kScalingTypes[] = {
    {"default", RopeScaling::kNone, ReadNone},
    {"linear", RopeScaling::kLinear, ReadLinear},
    {"llama3", RopeScaling::kLlama3, ReadLlama3},
    {"yarn", RopeScaling::kYarn, ReadYarn},
};

// The type is in `rope_type`, or `type` in older files.
absl::Status ReadScaling(const JsonFields& block, bool required, int64_t max_position_embeddings,
                         RopeConfig* rope) {
  const char* key = !block.Has("rope_type") && block.Has("type") ? "type" : "rope_type";
  const Json* type = block.Find(key);
  if (type == nullptr && !required) return absl::OkStatus();
  std::string supported;
  for (const ScalingType& known : kScalingTypes) {
    if (type != nullptr && *type == known.name) {
      rope->scaling = known.scaling;
      return known.read(block, max_position_embeddings, rope);
    }
    absl::StrAppend(&supported, supported.empty() ? "" : ", ", known.name);
  }
  const bool is_name = type != nullptr && type->is_string();
  return is_name ? block.Unsupported(key, supported)
                 : block.Invalid(key, absl::StrCat("one of ", supported));
}

// The dimension, of head_dim/2 * 2, whose pair turns `turns` times in the original context.
double DimensionOfTurns(const RopeConfig& rope, double turns, double head_dim) {
  const double wavelength = static_cast<double>(rope.original_context) / turns;
  return head_dim * std::log(wavelength / (2 * std::numbers::pi)) / (2 * std::log(rope.theta));
}

void ScaleLlama3(const RopeConfig& rope, std::vector<double>* frequencies) {
  for (double& frequency : *frequencies) {
    const double turns =
        static_cast<double>(rope.original_context) * frequency / (2 * std::numbers::pi);
    const double kept = std::clamp(
        (turns - rope.low_freq_factor) / (rope.high_freq_factor - rope.low_freq_factor), 0.0, 1.0);
    frequency *= kept + (1 - kept) / rope.factor;
  }
}

void ScaleYarn(const RopeConfig& rope, std::vector<double>* frequencies) {
  const auto head_dim = static_cast<double>(2 * frequencies->size());
  double low = DimensionOfTurns(rope, rope.beta_fast, head_dim);
  double high = DimensionOfTurns(rope, rope.beta_slow, head_dim);
  if (rope.truncate) {
    low = std::floor(low);
    high = std::ceil(high);
  }
  low = std::max(low, 0.0);
  high = std::min(high, head_dim - 1);
  if (low == high) high += 0.001;  // as the reference implementations do
  for (size_t i = 0; i < frequencies->size(); ++i) {
    const double stretched = std::clamp((static_cast<double>(i) - low) / (high - low), 0.0, 1.0);
    (*frequencies)[i] *= 1 - stretched + stretched / rope.factor;
  }
}

}  // namespace

absl::StatusOr<RopeConfig> ReadRope(const JsonFields& config, int64_t max_position_embeddings) {
  RopeConfig rope;
  const bool has_theta = config.Has("rope_theta");
  LONGSPAN_ASSIGN_OR_RETURN(rope.theta, config.PositiveOr("rope_theta", rope.theta));
  for (const std::string key : {"rope_scaling", "rope_parameters"}) {
    const Json* object = config.Find(key);
    if (object == nullptr) continue;
    if (!object->is_object()) return config.Invalid(key, "an object or null");
    const JsonFields block(*object, config.path(), key + ".");
    if (std::any_of(object->begin(), object->end(), [](const Json& v) { return v.is_object(); })) {
      return config.Unsupported(key, "the same RoPE in every layer");
    }
    const Json* rotary_share = block.Find("partial_rotary_factor");
    if (rotary_share != nullptr && *rotary_share != 1) {
      return block.Unsupported("partial_rotary_factor", "1");
    }
    LONGSPAN_RETURN_IF_ERROR(
        ReadScaling(block, /*required=*/key == "rope_scaling", max_position_embeddings, &rope));
    if (!block.Has("rope_theta")) continue;
    LONGSPAN_ASSIGN_OR_RETURN(const double theta, block.Positive("rope_theta"));
    if (has_theta && theta != rope.theta) {
      return block.Invalid("rope_theta", absl::StrCat(rope.theta, ", as rope_theta outside says"));
    }
    rope.theta = theta;
  }
  if (rope.scaling == RopeScaling::kYarn && rope.theta <= 1) {
    return config.Unsupported("rope_theta", "with YaRN, more than 1");
  }
  return rope;
}

RopeConfig StretchedByNtk(RopeConfig rope, int64_t head_dim, double factor) {
  const auto dim = static_cast<double>(head_dim);
  // The one pair of two dimensions turns by a radian a token whatever theta is.
  if (head_dim > 2) rope.theta *= std::pow(factor, dim / (dim - 2));
  return rope;
}

RopeConfig StretchedByYarn(RopeConfig rope, int64_t trained_context, double factor) {
  rope.scaling = RopeScaling::kYarn;
  rope.factor = factor;
  rope.original_context = trained_context;
  rope.attention_factor = YarnSharpness(factor, 1);
  return rope;
}

std::vector<double> InverseFrequencies(const RopeConfig& rope, int64_t head_dim) {
  std::vector<double> frequencies(head_dim / 2);
  for (size_t i = 0; i < frequencies.size(); ++i) {
    frequencies[i] =
        std::pow(rope.theta, -2.0 * static_cast<double>(i) / static_cast<double>(head_dim));
  }
  switch (rope.scaling) {
    case RopeScaling::kNone:
      break;
    case RopeScaling::kLinear:
      for (double& frequency : frequencies) frequency /= rope.factor;
      break;
    case RopeScaling::kLlama3:
      ScaleLlama3(rope, &frequencies);
      break;
    case RopeScaling::kYarn:
      ScaleYarn(rope, &frequencies);
      break;
  }
  return frequencies;
}

}  // namespace longspan
