#include "runtime/new_file.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <filesystem>
#include <utility>

#include "absl/cleanup/cleanup.h"
#include "absl/strings/str_cat.h"

namespace longspan {

absl::StatusOr<NewFile> NewFile::Create(const std::string& path, mode_t mode) {
  NewFile file;
  file.path_ = path;
  file.temporary_ = absl::StrCat(path, ".tmp.", getpid());
  file.descriptor_ =
      open(file.temporary_.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, mode);
  if (file.descriptor_ < 0) {
    return absl::ErrnoToStatus(errno, absl::StrCat("cannot create ", file.temporary_));
  }
  return file;
}

NewFile::NewFile(NewFile&& other) noexcept
    : path_(std::move(other.path_)),
      temporary_(std::move(other.temporary_)),
      descriptor_(std::exchange(other.descriptor_, -1)) {}

NewFile::~NewFile() {
  if (descriptor_ < 0) return;
  close(descriptor_);
  unlink(temporary_.c_str());
}

absl::Status NewFile::Error(absl::string_view action) const {
  return absl::ErrnoToStatus(errno, absl::StrCat("cannot ", action, " ", path_));
}

absl::Status NewFile::Write(absl::string_view bytes) {
  while (!bytes.empty()) {
    const ssize_t written =
        write(descriptor_, bytes.data(), std::min(bytes.size(), size_t{1} << 30));
    if (written < 0 && errno == EINTR) continue;
    if (written < 0) return Error("write");
    bytes.remove_prefix(written);
  }
  return absl::OkStatus();
}

absl::Status NewFile::Commit() {
  if (fsync(descriptor_) != 0) return Error("write");
  if (rename(temporary_.c_str(), path_.c_str()) != 0) return Error("write");
  const bool closed = close(std::exchange(descriptor_, -1)) == 0;
  if (!closed) return Error("write");
  // The rename is on disk only with the directory.
  const std::string directory = std::filesystem::path(path_).parent_path();
  const int descriptor =
      open(directory.empty() ? "." : directory.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (descriptor < 0) return Error("flush the directory of");
  const absl::Cleanup close_descriptor = [descriptor] { close(descriptor); };
  return fsync(descriptor) == 0 ? absl::OkStatus() : Error("flush the directory of");
}

}  // namespace longspan
