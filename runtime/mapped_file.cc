#include "runtime/mapped_file.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <utility>

#include "absl/cleanup/cleanup.h"
#include "absl/status/status.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"

namespace longspan {
namespace {

absl::Status SystemError(absl::string_view action, const std::string& path) {
  const int error = errno;
  return absl::ErrnoToStatus(error, absl::StrCat(action, " ", path));
}

// What a clone without Git LFS has of a large file.
bool IsLfsPointer(absl::string_view text) {
  return absl::StartsWith(text, "version https://git-lfs.github.com/spec/");
}

}  // namespace

absl::StatusOr<MappedFile> MappedFile::Open(const std::string& path) {
  // O_NONBLOCK: opening a pipe must fail below, not wait for its writer.
  const int descriptor = open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
  if (descriptor < 0) return SystemError("cannot open", path);
  absl::Cleanup close_descriptor = [descriptor] { close(descriptor); };

  struct stat info;
  if (fstat(descriptor, &info) != 0) return SystemError("cannot inspect", path);
  if (!S_ISREG(info.st_mode)) {
    return absl::InvalidArgumentError(absl::StrCat("cannot map ", path, ": not a regular file"));
  }
  MappedFile file;
  file.path_ = path;
  if (info.st_size == 0) return file;
  const size_t size = static_cast<size_t>(info.st_size);
  void* address = mmap(nullptr, size, PROT_READ, MAP_SHARED, descriptor, 0);
  if (address == MAP_FAILED) return SystemError("cannot map", path);
  file.bytes_ = {static_cast<const std::byte*>(address), size};
  if (IsLfsPointer({static_cast<const char*>(address), size})) {
    return absl::InvalidArgumentError(
        absl::StrCat(path,
                     " is a pointer of Git LFS and not the file itself: fetch that with `git "
                     "lfs pull`, or download it again"));
  }
  return file;
}

MappedFile::MappedFile(MappedFile&& other) noexcept
    : path_(std::move(other.path_)), bytes_(std::exchange(other.bytes_, {})) {}

MappedFile& MappedFile::operator=(MappedFile&& other) noexcept {
  std::swap(path_, other.path_);
  std::swap(bytes_, other.bytes_);
  return *this;
}

MappedFile::~MappedFile() {
  if (!bytes_.empty()) munmap(const_cast<std::byte*>(bytes_.data()), bytes_.size());
}

}  // namespace longspan
