#ifndef LONGSPAN_RUNTIME_ROPE_CONFIG_H_
#define LONGSPAN_RUNTIME_ROPE_CONFIG_H_

#include <cstdint>
#include <vector>

#include "absl/status/statusor.h"
#include "runtime/json_fields.h"

namespace longspan {

// How a model's frequencies were stretched to a context beyond the first that it was trained on.
enum class RopeScaling {
  kNone,
  kLinear,  // all divided by `factor` (arXiv 2306.15595)
  kLlama3,  // the slow ones divided, the fast ones kept, between them a blend (arXiv 2407.21783)
  kYarn,    // the same with other borders, and sharper attention (arXiv 2309.00071)
};

// Rotary position embedding (arXiv 2104.09864): component pair (i, i + head_dim/2) turns by
// position * theta^(-2i/head_dim), unless scaled.
struct RopeConfig {
  double theta = 10000;
  RopeScaling scaling = RopeScaling::kNone;
  double factor = 1;
  int64_t original_context = 0;  // tokens; of kLlama3 and kYarn
  // kLlama3: a pair is fast if it turns more than high_freq_factor times in the original context,
  // slow if less than low_freq_factor times. kYarn: beta_fast and beta_slow are the same.
  double high_freq_factor = 4;
  double low_freq_factor = 1;
  double beta_fast = 32;
  double beta_slow = 1;
  bool truncate = true;         // kYarn: the borders are whole dimensions
  double attention_factor = 1;  // kYarn: queries and keys are this much longer
};

// `rope_theta` with `rope_scaling`, as older files have it, or `rope_parameters` with both.
// `max_position_embeddings`: what absent fields refer to. Errors name the field.
absl::StatusOr<RopeConfig> ReadRope(const JsonFields& config, int64_t max_position_embeddings);

// Of a model that is not scaled, stretched without further training to `factor` times its trained
// context, factor >= 1 (dense attention's ways beyond it).
//
// NTK-aware: theta grows to theta * factor^(d / (d - 2)), so that the slowest pair turns `factor`
// times slower and the fastest as before (as published by its author; YaRN's paper, arXiv
// 2309.00071, section 3.1, has it).
RopeConfig StretchedByNtk(RopeConfig rope, int64_t head_dim, double factor);
// YaRN with its paper's settings for Llama: betas of 32 and 1, and 0.1 ln(factor) + 1.
RopeConfig StretchedByYarn(RopeConfig rope, int64_t trained_context, double factor);

// [head_dim / 2], radians per token.
std::vector<double> InverseFrequencies(const RopeConfig& rope, int64_t head_dim);

}  // namespace longspan

#endif  // LONGSPAN_RUNTIME_ROPE_CONFIG_H_
