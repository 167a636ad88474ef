#ifndef LONGSPAN_LAUNCHER_SCALE_PREPARE_H_
#define LONGSPAN_LAUNCHER_SCALE_PREPARE_H_

#include <string>
#include <vector>

#include "absl/flags/declare.h"
#include "absl/status/statusor.h"
#include "launcher/scale_point.h"
#include "launcher/scale_study.h"

ABSL_DECLARE_FLAG(std::string, hostfile);
ABSL_DECLARE_FLAG(std::string, slurm);

// From the flags of `longspan scale` to what is to be run.
namespace longspan {

// One call of `scale`.
struct StudyRun {
  ScaleStudy study;
  std::string directory;
  std::vector<std::string> launch;  // starts ranks
  std::vector<ScaleKey> points;     // in order, those that are there already too
  std::vector<std::string> notes;   // to be said before the first
};

// What the flags say by themselves. An error is one of the command line.
absl::StatusOr<ScaleStudy> StudyFromFlags();

// Everything that is wrong with what the flags name is found here. Before it asks mpirun it calls
// CatchAllStopSignals, so that what is started is stopped.
absl::StatusOr<StudyRun> PrepareStudy(ScaleStudy study);

// Arguments of `longspan` for one point.
std::vector<std::string> PointArguments(const ScaleStudy& study, const ScaleKey& key);

}  // namespace longspan

#endif  // LONGSPAN_LAUNCHER_SCALE_PREPARE_H_
