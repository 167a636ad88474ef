#ifndef LONGSPAN_LAUNCHER_CALIBRATE_REPORT_H_
#define LONGSPAN_LAUNCHER_CALIBRATE_REPORT_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/types/span.h"
#include "launcher/bench_report.h"
#include "launcher/calibrate_options.h"
#include "runtime/calibration.h"
#include "runtime/dim_choice.h"

namespace longspan {

// What was calibrated, of all reports.
struct CalibrationSource {
  std::string model;
  std::string input;
};

// Recall of the true top k, by layer, method and d'. `reports` has one for each case.
std::string FormatComparison(const CalibrationSource& source, const CalibrateOptions& options,
                             absl::Span<const FitCase> cases,
                             absl::Span<const CalibrationReport> reports);

// A d' for each layer, and beside it the best that has one d' for all within the same budget.
std::string FormatDimChoice(const CalibrationSource& source, const CalibrateOptions& options,
                            int64_t budget_dim, absl::Span<const FitCase> cases,
                            absl::Span<const CalibrationReport> reports);

// The mean of the layers' recall.
double MeanRecall(const CalibrationReport& report);

}  // namespace longspan

#endif  // LONGSPAN_LAUNCHER_CALIBRATE_REPORT_H_
