#ifndef LONGSPAN_LAUNCHER_SCALE_SLURM_H_
#define LONGSPAN_LAUNCHER_SCALE_SLURM_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"

namespace longspan {

struct SlurmPoint {
  int64_t ranks = 1;
  std::vector<std::string> arguments;  // of `longspan`, without --output
};

// The script of a job array, a task a point: each writes DIR/point-N.json unless it is there, and
// the report is made when all have ended. `launch`: words of a command that takes -n RANKS.
std::string SlurmScript(const std::string& directory, const std::string& program,
                        const std::vector<std::string>& launch,
                        const std::vector<SlurmPoint>& points);

// Refuses a file that is there and is not such a script, which would be lost.
absl::Status CheckScriptPath(const std::string& path);

}  // namespace longspan

#endif  // LONGSPAN_LAUNCHER_SCALE_SLURM_H_
