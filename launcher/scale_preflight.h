#ifndef LONGSPAN_LAUNCHER_SCALE_PREFLIGHT_H_
#define LONGSPAN_LAUNCHER_SCALE_PREFLIGHT_H_

#include <cstdint>
#include <map>
#include <set>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "launcher/scale_point.h"
#include "launcher/scale_study.h"
#include "runtime/config.h"

// What can be known of a study before anything is started.
namespace longspan {

// Refuses a --file that is not there or has nothing in it; none is fine.
absl::Status CheckText(const std::string& file);

// The words of --mpirun. Refuses none, and a number of ranks: -n is added for each point.
absl::StatusOr<std::vector<std::string>> LaunchWords(absl::string_view mpirun);

// The same with the program's path, and --hostfile. Refuses a program or hostfile that is not
// there, and a hostfile with a line that is none.
absl::StatusOr<std::vector<std::string>> LaunchCommand(absl::string_view mpirun,
                                                       const std::string& hostfile);

// Refuses more ranks than Open MPI's mpirun says it has slots for, unless it oversubscribes; what
// other commands do, nobody knows. Returns how many ranks it starts on this machine, for each
// number in all; absent: not known here.
absl::StatusOr<std::map<int64_t, int64_t>> CheckSlots(const std::vector<std::string>& launch,
                                                      const std::set<int64_t>& ranks);

// The config of the flags, with this `attention` if it is not empty.
absl::StatusOr<Config> ScaleConfig(const std::string& method);

// Refuses points that cannot run: with more sequences or tokens than the config allows, a layout
// that their ranks do not take, or more memory than this machine has for those of their ranks that
// run here, as CheckSlots says. One-rank runs that are only there to compare with are left out
// instead; why, is returned.
absl::StatusOr<std::map<ScaleKey, std::string>> CheckPoints(const ScaleStudy& study,
                                                            const std::set<ScaleKey>& grid,
                                                            const std::set<ScaleKey>& references,
                                                            const std::map<int64_t, int64_t>& here);

}  // namespace longspan

#endif  // LONGSPAN_LAUNCHER_SCALE_PREFLIGHT_H_
