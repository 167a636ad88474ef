#ifndef LONGSPAN_LAUNCHER_CHILD_PROCESS_H_
#define LONGSPAN_LAUNCHER_CHILD_PROCESS_H_

#include <string>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/status/statusor.h"

namespace longspan {

struct ChildResult {
  int exit_code = 0;     // 128 + n: ended by signal n
  bool stopped = false;  // because `goes_on` said so
  std::string output;    // all of its standard output
  std::string errors;    // the end of its standard error, whole lines
};

// Runs a program, without a shell and with nothing to read, in a process group of its own, so that
// a terminal's Ctrl-C reaches it only from here. `goes_on` is asked several times a second; when it
// says no, the program gets SIGTERM and, if that is not enough, its group SIGKILL. NotFound: there
// is no such program.
absl::StatusOr<ChildResult> RunChild(const std::vector<std::string>& arguments,
                                     absl::FunctionRef<bool()> goes_on);

// Where `name` is, as a shell would find it. NotFound: nowhere in $PATH.
absl::StatusOr<std::string> FindProgram(const std::string& name);

// The file of this program.
std::string OwnProgram();

}  // namespace longspan

#endif  // LONGSPAN_LAUNCHER_CHILD_PROCESS_H_
