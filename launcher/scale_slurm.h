#ifndef LONGSPAN_LAUNCHER_SCALE_SLURM_H_
#define LONGSPAN_LAUNCHER_SCALE_SLURM_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"

namespace longspan {

struct SlurmPoint {
  std::string file;  // in the study's directory
  int64_t ranks = 1;
  std::vector<std::string> arguments;  // of `longspan`, without --output
};

// Refuses a path where there is anything but an earlier script.
absl::Status CheckSlurmPath(const std::string& path);

// The script of a job array, a task a point: each writes its file unless it is there, and the
// report is made when all have ended. `folder`: where other paths begin, wherever sbatch is called.
// `launch`: words of a command that takes -n RANKS.
std::string SlurmScript(const std::string& folder, const std::string& directory,
                        const std::string& program, const std::vector<std::string>& launch,
                        const std::vector<SlurmPoint>& points);

}  // namespace longspan

#endif  // LONGSPAN_LAUNCHER_SCALE_SLURM_H_
