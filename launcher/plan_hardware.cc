#include "launcher/plan_hardware.h"

#include <filesystem>
#include <set>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "launcher/child_process.h"
#include "runtime/hardware_profile.h"

namespace longspan {
namespace {

namespace fs = std::filesystem;

// links.yaml is no machine.
std::set<std::string> NamesIn(const std::vector<std::string>& directories) {
  std::set<std::string> names;
  for (const std::string& directory : directories) {
    std::error_code error;
    for (const auto& file : fs::directory_iterator(directory, error)) {
      const fs::path& path = file.path();
      if (path.extension() == ".yaml" && path.stem() != "links") names.insert(path.stem());
    }
  }
  return names;
}

}  // namespace

std::vector<std::string> HardwareDirectories() {
  std::vector<std::string> directories;
  std::error_code error;
  const auto add = [&](const fs::path& root) {
    const fs::path directory = root / "configs" / "hardware";
    if (fs::is_directory(directory, error)) directories.push_back(directory.string());
  };
  add(".");
  for (fs::path above = fs::path(OwnProgram()).parent_path(); above.has_relative_path();
       above = above.parent_path()) {
    add(above);
  }
  return directories;
}

absl::StatusOr<std::string> FindHardware(const std::string& name,
                                         const std::vector<std::string>& directories) {
  if (absl::StrContains(name, '/') || absl::EndsWith(name, ".yaml")) {
    return name;
  }
  const std::string what =
      absl::StrCat("give a file, or one of ", absl::StrJoin(NamesIn(directories), ", "));
  if (name.empty()) return absl::InvalidArgumentError("--hardware is needed: " + what);
  std::error_code error;
  for (const std::string& directory : directories) {
    const std::string path = absl::StrCat(directory, "/", name, ".yaml");
    if (name != "links" && fs::exists(path, error)) return path;
  }
  return absl::InvalidArgumentError(
      absl::StrCat("--hardware: there is no profile `", name, "`: ", what));
}

absl::StatusOr<HardwareProfile> LoadHardware(const std::string& path) {
  return LoadHardwareProfile(path, HardwareDirectories());
}

}  // namespace longspan
