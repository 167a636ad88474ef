#ifndef LONGSPAN_RUNTIME_LAYER_FITS_H_
#define LONGSPAN_RUNTIME_LAYER_FITS_H_

#include <cstdint>
#include <functional>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "collectives/communicator.h"
#include "runtime/score_fit.h"
#include "runtime/sgd_fit.h"

namespace longspan {

enum class FitMethod { kClosedForm, kPca, kSgd, kSgdMlp };

// "closed_form", "pca", "sgd", "sgd_mlp".
absl::string_view FitMethodName(FitMethod method);
// InvalidArgument names those that there are.
absl::StatusOr<FitMethod> ParseFitMethod(absl::string_view name);

// From rows of the text, and not from their moments.
inline bool NeedsRows(FitMethod method) {
  return method == FitMethod::kSgd || method == FitMethod::kSgdMlp;
}
// Whether it gives two matrices, which is all that compressor.safetensors and the kernels know.
inline bool IsLinear(FitMethod method) { return method != FitMethod::kSgdMlp; }

// One method and number of dimensions.
struct FitCase {
  FitMethod method = FitMethod::kClosedForm;
  int64_t dim = 0;  // at most the width of the concatenated keys
};

// The layers of sgd_mlp have as many hidden units as a row is wide.
struct ScoreFit {
  ScoreMaps maps;
  double explained = 0;  // share of the centred scores' variance kept; NaN of maps not linear
};

// Rows of the text that one rank has seen, of every layer.
struct RowSample {
  struct Window {
    int64_t index = 0;  // in the text
    int64_t rows = 0;
  };
  struct Layer {
    std::vector<float> queries, keys;  // [rows of all windows, width]
  };
  std::vector<Window> windows;  // ascending
  std::vector<Layer> layers;    // empty if no case needs rows
};

struct LayerFitArgs {
  absl::Span<const LayerMoments> moments;  // [layers] of all ranks
  RowSample* sample = nullptr;             // of this rank; its layers are given up on the way
  int64_t width = 0;
  absl::Span<const FitCase> cases;
  SgdOptions sgd;
  std::function<void(double share)> progress;  // of this rank's work; may be empty
};
// Called with each layer in order, on every rank, with a fit a case.
using OnLayerFits = std::function<absl::Status(int64_t layer, absl::Span<const ScoreFit> fits)>;

// Fits all layers, a layer on one rank; all get all fits. Rows are taken in the order of the text,
// so the fits do not depend on the number of ranks but by the rounding of the moments. Collective.
absl::Status FitLayers(Communicator& communicator, const LayerFitArgs& args,
                       const OnLayerFits& on_layer);

}  // namespace longspan

#endif  // LONGSPAN_RUNTIME_LAYER_FITS_H_
