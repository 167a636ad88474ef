#ifndef LONGSPAN_RUNTIME_CALIBRATION_H_
#define LONGSPAN_RUNTIME_CALIBRATION_H_

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "collectives/communicator.h"
#include "runtime/config.h"
#include "runtime/layer_fits.h"
#include "runtime/model_config.h"
#include "runtime/score_fit.h"

namespace longspan {

struct CalibrationReport {
  struct Layer {
    LayerFactors factors;  // of CalibrateEach: `explained` alone
    double recall = 0;     // share of the exact top_k that the factors' top_k has
  };
  std::vector<Layer> layers;
  std::string fingerprint;  // of the model
  int64_t tokens = 0;       // fitted on
  int64_t recall_keys = 0;  // the keys that the recall selects from, on the rank with the most
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

struct CalibrationOptions {
  SgdOptions sgd;
  std::function<void(double share)> fit_progress;  // rank 0, when all text is through; may be empty
};

// Runs the windows through the model with dense attention, each on one rank, and fits every layer
// to `esa.compressed_dim` dimensions. `method` must be linear.
// One window in eight is held out of the fit, and tells the recall. As many windows as 1 GiB of
// hidden states a host allow pass a layer before any passes the next, so that a rank's memory holds
// one layer's weights at a time; a method that needs rows keeps 8 * kSgdTokens * layers * width
// bytes more over all ranks. Collective; every rank gets the report.
absl::StatusOr<CalibrationReport> Calibrate(const Config& config, Communicator& communicator,
                                            const NextWindow& next_window,
                                            const CalibrationProgress& progress,
                                            FitMethod method = FitMethod::kClosedForm,
                                            const CalibrationOptions& options = {});

// The same with several methods and dimensions, to compare: a report a case.
absl::StatusOr<std::vector<CalibrationReport>> CalibrateEach(const Config& config,
                                                             Communicator& communicator,
                                                             const NextWindow& next_window,
                                                             const CalibrationProgress& progress,
                                                             absl::Span<const FitCase> cases,
                                                             const CalibrationOptions& options);

}  // namespace longspan

#endif  // LONGSPAN_RUNTIME_CALIBRATION_H_
