#ifndef LONGSPAN_RUNTIME_HARDWARE_PROFILE_H_
#define LONGSPAN_RUNTIME_HARDWARE_PROFILE_H_

#include <map>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "sharding/hardware_profile.h"

// Files of configs/hardware: a machine each, and links.yaml, which names links for all of them.
// configs/hardware/README.md explains the keys.
namespace longspan {

struct Links {
  std::string file;  // that they are of; empty: there is none
  std::map<std::string, LinkCost> links;
};

// `name: {latency_s, bytes_per_s}`. `file` is for messages. InvalidArgument names file, line and
// key: unknown keys, and numbers that are missing or make no sense.
absl::StatusOr<Links> ParseLinks(absl::string_view yaml, const std::string& file);

// A profile; `within_host` and `between_hosts` are names of `links`, or links themselves.
absl::StatusOr<HardwareProfile> ParseHardwareProfile(absl::string_view yaml,
                                                     const std::string& file, const Links& links);

// Reads a profile, and links.yaml beside it, or the first that there is in other directories.
absl::StatusOr<HardwareProfile> LoadHardwareProfile(
    const std::string& path, const std::vector<std::string>& link_directories = {});

// The inverse of ParseHardwareProfile, with all links written out.
std::string HardwareProfileToYaml(const HardwareProfile& profile);

}  // namespace longspan

#endif  // LONGSPAN_RUNTIME_HARDWARE_PROFILE_H_
