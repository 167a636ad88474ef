#ifndef LONGSPAN_LAUNCHER_CHILD_PROCESS_H_
#define LONGSPAN_LAUNCHER_CHILD_PROCESS_H_

#include <string>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/status/statusor.h"

namespace longspan {

struct ChildResult {
  int exit_code = 0;     // 128 + n: ended by signal n
  bool stopped = false;  // because `order` said so
  std::string output;    // all of its standard output
  std::string errors;    // the end of its standard error, whole lines
};

enum class ChildOrder {
  kRun,
  kStop,  // SIGTERM, and when the program has ended, to what is left of its group; kKill if either
          // takes longer than patience
  kKill,  // SIGKILL to its group
};

// What the signals of CatchAllStopSignals say: the first kStop, the second kKill.
ChildOrder OrderOfSignals();

inline constexpr double kStopPatienceSeconds = 10;

// Runs a program, without a shell and with nothing to read, in a session of its own: no terminal's
// Ctrl-C reaches it but from here, and it can ask nobody for a password. If this process is killed,
// or the thread that called, the program gets SIGTERM. `order` is asked several times a second.
// What programs that it leaves behind write after its end is lost. NotFound: there is no such
// program.
absl::StatusOr<ChildResult> RunChild(const std::vector<std::string>& arguments,
                                     absl::FunctionRef<ChildOrder()> order,
                                     double patience_s = kStopPatienceSeconds);

// Where `name` is, as a shell would find it. NotFound: nowhere in $PATH.
absl::StatusOr<std::string> FindProgram(const std::string& name);

// The file of this program.
std::string OwnProgram();

}  // namespace longspan

#endif  // LONGSPAN_LAUNCHER_CHILD_PROCESS_H_
