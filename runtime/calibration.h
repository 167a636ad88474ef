#ifndef LONGSPAN_RUNTIME_CALIBRATION_H_
#define LONGSPAN_RUNTIME_CALIBRATION_H_

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "collectives/communicator.h"
#include "runtime/calibration_rows.h"
#include "runtime/config.h"
#include "runtime/layer_fits.h"
#include "runtime/model_config.h"
#include "runtime/score_fit.h"

namespace longspan {

struct CalibrationReport {
  struct Layer {
    LayerFactors factors;  // empty of CalibrateEach
    double explained = 0;  // ScoreFit
    // Of each window that was held out, in the order of the text: the share of the exact top k that
    // the factors' top k has. Empty if windows are too short for that.
    std::vector<double> window_recalls;
    double recall = 0;  // their mean; NaN if there are none
  };
  std::vector<Layer> layers;
  std::string fingerprint;  // of the model
  int64_t tokens = 0;       // fitted on
  RecallRanges recall;      // of each window that is held out
  int64_t held_out_windows = 0;
};

// Rank 0's source of text: the next window of at most `max_tokens` token ids, empty at the end.
using NextWindow = std::function<absl::StatusOr<std::vector<int32_t>>(int64_t max_tokens)>;
// Rank 0: how much is done, in tokens that have been through all layers.
using CalibrationProgress = std::function<void(int64_t tokens)>;

// Tokens of a window: the trained context, but at most 8,192, as dense attention costs the square.
int64_t CalibrationWindow(const ModelConfig& model);

// Bytes that a calibration on so many tokens keeps of the text's rows until the fits, over all
// ranks: of windows that are held out, and of the tokens that methods which need rows take.
int64_t CalibrationRowBytes(const ModelConfig& model, const EsaConfig& esa,
                            absl::Span<const FitCase> cases, int64_t tokens);

struct CalibrationOptions {
  SgdOptions sgd;
  std::function<void(double share)> fit_progress;  // rank 0, when all text is through; may be empty
};

// Runs the windows through the model with dense attention, each on one rank, and fits every layer
// to `esa.compressed_dim` dimensions. `method` must be linear.
// Windows that are held out of the fit (WindowUses) tell the recall. As many windows as 1 GiB of
// hidden states a host allow pass a layer before any passes the next, so that a rank's memory holds
// one layer's weights at a time, beside CalibrationRowBytes. Collective; every rank gets the
// report.
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
