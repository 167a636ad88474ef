#include "launcher/report_file.h"

#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstring>
#include <filesystem>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "kernels/base/status_macros.h"
#include "runtime/new_file.h"

namespace longspan {
namespace {

namespace fs = std::filesystem;

// By whatever name, and whether it exists or not.
bool IsSameFile(const std::string& a, const std::string& b) {
  if (b.empty()) return false;
  std::error_code error;
  if (fs::equivalent(a, b, error)) return true;
  const fs::path first = fs::weakly_canonical(fs::absolute(a, error), error);
  return !first.empty() && first == fs::weakly_canonical(fs::absolute(b, error), error);
}

}  // namespace

absl::Status CheckReportPath(const std::string& path, absl::string_view flag,
                             absl::Span<const NamedPath> kept) {
  if (path.empty()) return absl::OkStatus();
  const std::string named = absl::StrCat("--", flag, " ", path);
  if (path == "-") return absl::InvalidArgumentError(absl::StrCat(named, ": name a file"));
  if (absl::EndsWith(path, ".safetensors")) {
    return absl::InvalidArgumentError(
        absl::StrCat(named,
                     ": the report is text, and files of that name hold weights or a "
                     "compressor; name another file"));
  }
  for (const NamedPath& other : kept) {
    if (!IsSameFile(path, other.path)) continue;
    return absl::InvalidArgumentError(
        absl::StrCat(named, ": is also --", other.flag, ", which it would replace"));
  }
  std::error_code error;
  const fs::path parent = fs::absolute(path, error).parent_path();
  const bool exists = fs::exists(path, error);
  if (fs::is_directory(path, error)) {
    return absl::InvalidArgumentError(absl::StrCat(named, ": is a directory"));
  }
  if (access(exists ? path.c_str() : parent.c_str(), W_OK) == 0) return absl::OkStatus();
  return absl::NotFoundError(absl::StrCat(named, ": cannot be written to: ", strerror(errno)));
}

absl::Status WriteReport(const std::string& text, const std::string& path) {
  std::error_code ignored;
  if (!path.empty() && (fs::is_regular_file(path, ignored) || !fs::exists(path, ignored))) {
    LONGSPAN_ASSIGN_OR_RETURN(NewFile file, NewFile::Create(path));
    LONGSPAN_RETURN_IF_ERROR(file.Write(text));
    return file.Commit();
  }
  FILE* file = path.empty() ? stdout : fopen(path.c_str(), "w");
  const bool written = file != nullptr &&
                       fwrite(text.data(), 1, text.size(), file) == text.size() &&
                       fflush(file) == 0;
  const int error = errno;
  if (file != nullptr && file != stdout) fclose(file);
  if (written) return absl::OkStatus();
  return absl::DataLossError(absl::StrCat(path.empty() ? "standard output" : path,
                                          ": the results cannot be written: ", strerror(error)));
}

}  // namespace longspan
