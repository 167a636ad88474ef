#ifndef LONGSPAN_LAUNCHER_HOSTFILE_H_
#define LONGSPAN_LAUNCHER_HOSTFILE_H_

#include <string>

#include "absl/status/status.h"

namespace longspan {

// That a file is one that the --hostfile of Open MPI's mpirun takes, with lines such as
// `node1 slots=16 max_slots=32`, and comments behind `#` or `//`. Errors name the file, and the
// line at fault. A file without hosts is one.
absl::Status CheckHostfile(const std::string& path);

}  // namespace longspan

#endif  // LONGSPAN_LAUNCHER_HOSTFILE_H_
