#ifndef LONGSPAN_LAUNCHER_PLAN_FIT_H_
#define LONGSPAN_LAUNCHER_PLAN_FIT_H_

#include <cstdint>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "launcher/bench_collectives.h"
#include "launcher/scale_point.h"
#include "sharding/hardware_profile.h"
#include "sharding/profile_fit.h"

// `longspan plan --fit`: a hardware profile from what `scale` and `bench collectives` measured.
namespace longspan {

// A collective that was measured by itself.
struct MeasuredCall {
  CollectiveCase of;
  int ranks = 1;
  double seconds = 0;  // median; of several ways the fastest
};

struct FitInput {
  std::vector<ScalePoint> points;
  std::vector<MeasuredCall> calls;
  std::vector<std::string> notes;  // on what was left out
};

// Adds what the file has: lines of a study's points.jsonl, or a report of `bench collectives` in
// CSV or JSON. InvalidArgument: it is none of these, and what is wrong with it.
absl::Status ReadFitFile(const std::string& path, FitInput* input);

// Which points of studies are kept from the fit, to be predicted.
struct Holdout {
  int64_t every = 0;                             // each so-manieth; 0: none
  std::set<std::pair<int64_t, int64_t>> points;  // (context, ranks)

  bool Holds(size_t index, const ScalePoint& point) const;
};
// "", "3" or "65536/4,131072/8".
absl::StatusOr<Holdout> ParseHoldout(absl::string_view text);

// Which of the points it keeps. Every so-manieth is counted over contexts and ranks, whatever the
// order in the files, and over points whose ranks have a core each. InvalidArgument: a point that
// it names is not there, or there is none to keep.
absl::StatusOr<std::vector<bool>> HeldOut(const Holdout& holdout,
                                          const std::vector<ScalePoint>& points);

inline constexpr char kHeldOut[] = "held out";

// A prediction beside what was measured.
struct FitCheck {
  std::string not_fitted;  // why: "held out"; empty: it was
  FitError error;
};

struct FitReport {
  HardwareProfile profile;
  std::vector<FitError> parts;   // what was fitted: phases of points, and calls
  std::vector<FitCheck> checks;  // prompts and tokens of all points, predicted as a whole
};

// `model`: directory that wins over those of the points; may be empty. Points of one size are not
// told apart from `start`, whose numbers stay where nothing was measured. InvalidArgument: points
// of another device than `start`, or none that may be fitted.
absl::StatusOr<FitReport> FitHardware(const HardwareProfile& start, const FitInput& input,
                                      const Holdout& holdout, const std::string& model);

std::string FitTable(const FitReport& report);

// Says which rows are worst, if half of what was fitted, or of what was held out, is more than 15%
// off. Empty: it is not.
std::string FitWarning(const FitReport& report);

// One call of `plan --fit`.
struct FitJob {
  std::string hardware;             // file of the profile to start from
  std::vector<std::string> inputs;  // files of ReadFitFile
  std::string output;               // of the profile; empty: none is written
  Holdout holdout;
  std::string model;  // as FitHardware takes it
};

// Prints the table to standard output, and a warning to standard error, and writes the profile
// whatever its errors are, with what it comes from in a comment; that it is none of the files that
// `job` names is the caller's to see to. InvalidArgument: a file that is given twice, or an output
// that is a file of a point's model.
absl::Status FitFiles(const FitJob& job, const HardwareProfile& start);

}  // namespace longspan

#endif  // LONGSPAN_LAUNCHER_PLAN_FIT_H_
