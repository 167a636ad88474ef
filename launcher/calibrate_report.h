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

struct DimChoiceGoal {
  double recall = 0;  // mean over the layers
  int64_t budget_dim = 0;
  int64_t number_bytes = 0;  // of a number of a compressed key
};
// A d' for each layer, and beside it the best that has one d' for all within the same budget. The
// windows held out choose and tell in turn; a single one does both.
std::string FormatDimChoice(const CalibrationSource& source, const CalibrateOptions& options,
                            const DimChoiceGoal& goal, absl::Span<const FitCase> cases,
                            absl::Span<const CalibrationReport> reports);

// "recall of the exact top 180 of 1440 keys, by 64 queries of each of 3 held-out windows"
std::string RecallText(const CalibrationReport& report);

}  // namespace longspan

#endif  // LONGSPAN_LAUNCHER_CALIBRATE_REPORT_H_
