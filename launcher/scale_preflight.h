#ifndef LONGSPAN_LAUNCHER_SCALE_PREFLIGHT_H_
#define LONGSPAN_LAUNCHER_SCALE_PREFLIGHT_H_

#include <map>
#include <set>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "launcher/scale_point.h"
#include "launcher/scale_study.h"
#include "runtime/config.h"

// What can be known of a study before anything is started.
namespace longspan {

// The words of a command that starts ranks, with the program's path: of --mpirun and --hostfile.
// Refuses what mpirun would refuse at the first point: a program or hostfile that is not there, and
// more ranks than slots, unless the command allows that.
absl::StatusOr<std::vector<std::string>> LaunchCommand(const std::string& mpirun,
                                                       const std::string& hostfile,
                                                       int64_t most_ranks);

// The config of the flags, with this `attention` if it is not empty.
absl::StatusOr<Config> ScaleConfig(const std::string& method);

// Refuses points that cannot run: with more sequences or tokens than the config allows, a layout
// that their ranks do not take, or more memory than this machine has (unless ranks are elsewhere).
// One-rank runs that are only there to compare with are left out instead; why, is returned.
absl::StatusOr<std::map<ScaleKey, std::string>> CheckPoints(const ScaleStudy& study,
                                                            const std::set<ScaleKey>& grid,
                                                            const std::set<ScaleKey>& references,
                                                            bool ranks_are_here);

}  // namespace longspan

#endif  // LONGSPAN_LAUNCHER_SCALE_PREFLIGHT_H_
