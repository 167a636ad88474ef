#ifndef LONGSPAN_LAUNCHER_CALIBRATE_OPTIONS_H_
#define LONGSPAN_LAUNCHER_CALIBRATE_OPTIONS_H_

#include <cstdint>
#include <optional>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "launcher/bench_report.h"
#include "runtime/layer_fits.h"

namespace longspan {

// What `longspan calibrate` is to do, as its flags say.
struct CalibrateOptions {
  std::vector<FitMethod> methods;     // one, or those to compare
  bool compares = false;              // --compare: tells their recall, and writes nothing
  std::optional<double> recall;       // --recall: chooses a d' for each layer, and writes nothing
  std::optional<int64_t> budget_dim;  // of --recall, d' on average; empty: esa.compressed_dim
  std::vector<int64_t> dims;          // to try, ascending; empty: those of kUsualDims that fit
  SgdOptions sgd;
  ReportFormat format = ReportFormat::kTable;

  bool writes_compressor() const { return !compares && !recall.has_value(); }
};

inline constexpr int64_t kUsualDims[] = {16, 32, 64, 128, 256};
// Names of this subcommand's own flags.
inline constexpr absl::string_view kCalibrateFlags[] = {
    "method", "compare",           "dims",      "recall",     "budget_dim",
    "format", "sgd_learning_rate", "sgd_batch", "sgd_epochs", "sgd_seed"};

absl::StatusOr<CalibrateOptions> ParseCalibrateOptions();

// What is to be fitted, for keys of that width (kv_heads * head_dim): every method with every
// number of dimensions to try, method by method, dims ascending; or the compressor that is to be
// written, of `compressed_dim`. InvalidArgument if a number of dimensions exceeds the width.
absl::StatusOr<std::vector<FitCase>> CasesOf(const CalibrateOptions& options,
                                             int64_t compressed_dim, int64_t width);

}  // namespace longspan

#endif  // LONGSPAN_LAUNCHER_CALIBRATE_OPTIONS_H_
