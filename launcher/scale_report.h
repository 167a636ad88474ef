#ifndef LONGSPAN_LAUNCHER_SCALE_REPORT_H_
#define LONGSPAN_LAUNCHER_SCALE_REPORT_H_

#include <string>

#include "absl/status/status.h"
#include "launcher/scale_study.h"

namespace longspan {

// A line a point. Phases are of a chunk, or of a decoded step, in the mean over the ranks.
std::string ScaleCsv(const StoredStudy& stored);

// One page that needs nothing else: figures as inline SVG, and all points as a table.
std::string ScaleHtml(const StoredStudy& stored);

// Replaces DIR/points.csv and DIR/report.html.
absl::Status WriteScaleReport(const StoredStudy& stored, const std::string& directory);

}  // namespace longspan

#endif  // LONGSPAN_LAUNCHER_SCALE_REPORT_H_
