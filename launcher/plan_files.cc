#include "launcher/plan_files.h"

#include <filesystem>

#include "absl/strings/str_cat.h"
#include "launcher/plan_hardware.h"

namespace longspan {

std::vector<std::string> HardwareFiles(const std::string& profile) {
  const std::string folder = std::filesystem::path(profile).parent_path().string();
  std::vector<std::string> files = {profile,
                                    absl::StrCat(folder, folder.empty() ? "" : "/", "links.yaml")};
  for (const std::string& directory : HardwareDirectories()) {
    files.push_back(directory + "/links.yaml");
  }
  return files;
}

std::vector<std::string> ModelFiles(const std::string& directory) {
  std::vector<std::string> files;
  for (const char* name : {"config.json", "generation_config.json", "longspan.yaml"}) {
    files.push_back(absl::StrCat(directory, "/", name));
  }
  return files;
}

bool IsSameFile(const std::string& a, const std::string& b) {
  std::error_code error;  // neither may be there
  return a == b || std::filesystem::equivalent(a, b, error);
}

absl::Status CheckNotRead(const std::string& output, const std::vector<std::string>& read) {
  for (const std::string& file : read) {
    if (output.empty() || !IsSameFile(file, output)) continue;
    return absl::InvalidArgumentError(
        absl::StrCat("--output ", output, ": is read, and would be lost: give another name"));
  }
  return absl::OkStatus();
}

}  // namespace longspan
