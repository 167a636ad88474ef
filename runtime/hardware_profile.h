#ifndef LONGSPAN_RUNTIME_HARDWARE_PROFILE_H_
#define LONGSPAN_RUNTIME_HARDWARE_PROFILE_H_

#include <map>
#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "sharding/hardware_profile.h"

// Files of configs/hardware: a machine each, and links.yaml, which names links for all of them.
namespace longspan {

using Links = std::map<std::string, LinkCost>;

// `name: {latency_s, bytes_per_s}`. `file` is for messages. InvalidArgument names file, line and
// key: unknown keys, and numbers that are missing or make no sense.
absl::StatusOr<Links> ParseLinks(absl::string_view yaml, const std::string& file);

// A profile; `within_host` and `between_hosts` are names of `links`, or links themselves.
absl::StatusOr<HardwareProfile> ParseHardwareProfile(absl::string_view yaml,
                                                     const std::string& file, const Links& links);

// Reads a profile, and links.yaml beside it if there is one.
absl::StatusOr<HardwareProfile> LoadHardwareProfile(const std::string& path);

// The inverse of ParseHardwareProfile, with all links written out.
std::string HardwareProfileToYaml(const HardwareProfile& profile);

}  // namespace longspan

#endif  // LONGSPAN_RUNTIME_HARDWARE_PROFILE_H_
