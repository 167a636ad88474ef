#ifndef LONGSPAN_LAUNCHER_SCALE_PREFLIGHT_H_
#define LONGSPAN_LAUNCHER_SCALE_PREFLIGHT_H_

#include <cstdint>
#include <map>
#include <set>
#include <string>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "launcher/child_process.h"
#include "launcher/scale_point.h"
#include "launcher/scale_study.h"
#include "runtime/config.h"

// What can be known of a study before anything is started.
namespace longspan {

// The words of --mpirun. Refuses none, and a number of ranks: -n is added for each point.
absl::StatusOr<std::vector<std::string>> LaunchWords(absl::string_view mpirun);

// The same with the program's path, and --hostfile. Refuses a program or hostfile that is not
// there, and a hostfile with a line that is none.
absl::StatusOr<std::vector<std::string>> LaunchCommand(absl::string_view mpirun,
                                                       const std::string& hostfile);

// Refuses more ranks than Open MPI's mpirun says it has slots for, unless it oversubscribes; what
// other commands do, nobody knows. Returns how many ranks it starts on this machine, for each
// number in all; absent: not known here. DeadlineExceeded: it does not answer.
absl::StatusOr<std::map<int64_t, int64_t>> CheckSlots(const std::vector<std::string>& launch,
                                                      const std::set<int64_t>& ranks);

// Starts so many ranks that do nothing, as a study is about to: what is wrong with the command,
// with its hosts or with this program on them is told once, and not by every point. `order` as
// RunChild has it. Cancelled: it said so.
absl::Status TryLaunch(const std::vector<std::string>& launch, int64_t ranks,
                       absl::FunctionRef<ChildOrder()> order);

// Refuses a --file that cannot be read or has no text. Returns what is worth to be said of it: that
// prompts are longer than its text; empty: nothing.
absl::StatusOr<std::string> CheckPromptFile(const ScaleStudy& study);

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
