#ifndef LONGSPAN_RUNTIME_CALIBRATION_H_
#define LONGSPAN_RUNTIME_CALIBRATION_H_

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "collectives/communicator.h"
#include "runtime/config.h"
#include "runtime/model_config.h"

namespace longspan {

// Closed-form fit of the score's low-rank factors (docs/ALGORITHM.md, "Fitting A and B"). With
// Cq = E qq^T of the group-summed queries and Ck the covariance of the concatenated keys about
// their mean, the rank-d' map that minimises the error of the centred scores is
//   W = Cq^-1/2 [Cq^1/2 Ck^1/2]_d' Ck^-1/2,
// and A = Cq^-1/2 U S^1/2, B = Ck^-1/2 V S^1/2 with U S V^T the truncated SVD.

// Sums of one layer over the calibration text. Added up over ranks as they are.
struct LayerMoments {
  explicit LayerMoments(int64_t width) : query(width * width), key(width * width), key_sum(width) {}

  std::vector<double> query;    // [width, width] sum of q q^T, upper triangle
  std::vector<double> key;      // [width, width] sum of k k^T, upper triangle
  std::vector<double> key_sum;  // [width]
  double count = 0;

  // queries and keys: [rows, width].
  void Add(const float* queries, const float* keys, int64_t rows, int64_t width);
};

struct LayerFactors {
  std::vector<float> query;  // A [width, dim]
  std::vector<float> key;    // B [width, dim]
  double explained = 0;      // share of the centred scores' variance that the factors keep
};

// InvalidArgument if dim exceeds width or nothing was added.
absl::StatusOr<LayerFactors> FitFactors(const LayerMoments& moments, int64_t width, int64_t dim);

// `esa.target: far`: factors that were fitted to queries rotated to `position`, changed so that
// they take queries before RoPE. A^T R q = (R^T A)^T q, R the rotation of each key head's part.
void FoldRotation(const RopeConfig& rope, int64_t head_dim, int64_t position, int64_t dim,
                  LayerFactors* factors);

struct CalibrationReport {
  struct Layer {
    LayerFactors factors;
    double recall = 0;  // share of the exact top_k that the factors' top_k has
  };
  std::vector<Layer> layers;
  std::string fingerprint;  // of the model
  int64_t tokens = 0;       // fitted on
  int64_t recall_keys = 0;  // the keys that the recall selects from, mean over ranks
  int64_t recall_top_k = 0;
};

// Rank 0's source of text: the next window of at most `max_tokens` token ids, empty at the end.
using NextWindow = std::function<absl::StatusOr<std::vector<int32_t>>(int64_t max_tokens)>;
// Rank 0: how much is done, in tokens that have been through all layers.
using CalibrationProgress = std::function<void(int64_t tokens)>;

// Tokens of a window: the trained context, but at most 8,192, as dense attention costs the square.
int64_t CalibrationWindow(const ModelConfig& model);
// Fewer windows would hold none out.
inline constexpr int64_t kMinCalibrationWindows = 5;

// Runs the windows through the model with dense attention, each on one rank, and fits every layer.
// One window in eight is held out of the fit, and tells the recall. As many windows as 1 GiB of
// hidden states a host allow pass a layer before any passes the next, so that a rank's memory holds
// one layer's weights at a time. Collective; every rank gets the report.
absl::StatusOr<CalibrationReport> Calibrate(const Config& config, Communicator& communicator,
                                            const NextWindow& next_window,
                                            const CalibrationProgress& progress);

}  // namespace longspan

#endif  // LONGSPAN_RUNTIME_CALIBRATION_H_
