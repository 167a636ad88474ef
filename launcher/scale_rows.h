#ifndef LONGSPAN_LAUNCHER_SCALE_ROWS_H_
#define LONGSPAN_LAUNCHER_SCALE_ROWS_H_

#include <map>
#include <optional>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "launcher/scale_check.h"
#include "launcher/scale_figures.h"
#include "launcher/scale_study.h"

// The points of a study as rows of points.csv and of the report's table.
namespace longspan {

// Points by what they were measured on (ScalePoint::environment).
std::map<std::string, std::vector<const ScalePoint*>> ByEnvironment(const StoredStudy& stored);

// A point with what follows from it and from the others.
struct ScaleRow {
  const ScalePoint& point;
  std::optional<Scaling> scaling;
  OutputCheck check;
  bool is_elsewhere = false;  // most points have another environment
};
std::vector<ScaleRow> RowsOf(const StoredStudy& stored);

// One number of a row. NaN: there is none.
struct ScaleNumber {
  absl::string_view key;    // in CSV
  absl::string_view title;  // in HTML, with its unit; empty: not shown
  double (*value)(const ScaleRow& row);
  double factor = 1;      // from the CSV's unit to that of HTML
  bool is_share = false;  // of what should be the most
};
absl::Span<const ScaleNumber> ScaleNumbers();
bool IsAboveAll(const ScaleNumber& number, const ScaleRow& row);

inline constexpr absl::string_view kElsewhere =
    "measured on another machine or software than most points";

// "tokens equal".
absl::string_view VerdictName(const OutputCheck& check);
// What keeps a row from being a point of a curve; empty: nothing does.
std::string NoteOf(const ScaleRow& row);
// That ranks hold no stripe of a prompt; empty: all do.
std::string IdleText(const ScalePoint& point);

}  // namespace longspan

#endif  // LONGSPAN_LAUNCHER_SCALE_ROWS_H_
