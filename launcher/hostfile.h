#ifndef LONGSPAN_LAUNCHER_HOSTFILE_H_
#define LONGSPAN_LAUNCHER_HOSTFILE_H_

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"

namespace longspan {

// One line of mpirun's --hostfile: `node1 slots=16 max_slots=32`.
struct Host {
  std::string name;
  std::optional<int64_t> slots;  // unset: mpirun counts the host's cores
};

// Errors name the file, and the line at fault. A file without hosts is one.
absl::StatusOr<std::vector<Host>> ReadHostfile(const std::string& path);

// Unset if a host states none.
std::optional<int64_t> TotalSlots(const std::vector<Host>& hosts);

// Of this machine, as mpirun counts without a hostfile: its cores, not their threads; in a Slurm
// allocation its tasks.
int64_t LocalSlots();

}  // namespace longspan

#endif  // LONGSPAN_LAUNCHER_HOSTFILE_H_
