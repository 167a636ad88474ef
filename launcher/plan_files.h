#ifndef LONGSPAN_LAUNCHER_PLAN_FILES_H_
#define LONGSPAN_LAUNCHER_PLAN_FILES_H_

#include <string>
#include <vector>

#include "absl/status/status.h"

// What `longspan plan` reads is not what it writes: a profile or a study takes hours to make.
namespace longspan {

// Paths, whether the files are there or not: of a hardware profile with its links, and of a model
// directory whose weights are not read.
std::vector<std::string> HardwareFiles(const std::string& profile);
std::vector<std::string> ModelFiles(const std::string& directory);

// Whether two paths lead to one file; links are followed.
bool IsSameFile(const std::string& a, const std::string& b);

// InvalidArgument: `output`, which may be empty, is one of the files that are read.
absl::Status CheckNotRead(const std::string& output, const std::vector<std::string>& read);

}  // namespace longspan

#endif  // LONGSPAN_LAUNCHER_PLAN_FILES_H_
