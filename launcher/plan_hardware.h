#ifndef LONGSPAN_LAUNCHER_PLAN_HARDWARE_H_
#define LONGSPAN_LAUNCHER_PLAN_HARDWARE_H_

#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "sharding/hardware_profile.h"

namespace longspan {

// Where profiles are looked for: configs/hardware of the current directory, then of the folders
// above the program, as in its source tree.
std::vector<std::string> HardwareDirectories();

// The file of the profile that --hardware names: a path (with a slash, or ending in .yaml), or one
// of `directories` by the name of its file. InvalidArgument: there is none of that name, with those
// that there are.
absl::StatusOr<std::string> FindHardware(const std::string& name,
                                         const std::vector<std::string>& directories);

// Reads it. A file somewhere else may name the links of the shipped links.yaml.
absl::StatusOr<HardwareProfile> LoadHardware(const std::string& path);

}  // namespace longspan

#endif  // LONGSPAN_LAUNCHER_PLAN_HARDWARE_H_
