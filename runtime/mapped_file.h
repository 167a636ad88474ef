#ifndef LONGSPAN_RUNTIME_MAPPED_FILE_H_
#define LONGSPAN_RUNTIME_MAPPED_FILE_H_

#include <cstddef>
#include <string>

#include "absl/status/statusor.h"
#include "absl/types/span.h"

namespace longspan {

// A whole regular file, mapped read-only and shared: pages are read when they are touched, and
// ranks on one host share them. A file that is truncated in place while it is mapped raises
// SIGBUS at the next touch of a lost page; replacing it by rename is safe.
class MappedFile {
 public:
  // Errors name the path and the system's reason. An empty file gives empty bytes().
  static absl::StatusOr<MappedFile> Open(const std::string& path);

  MappedFile(MappedFile&& other) noexcept;
  MappedFile& operator=(MappedFile&& other) noexcept;
  ~MappedFile();

  // Starts on a page boundary.
  absl::Span<const std::byte> bytes() const { return bytes_; }
  const std::string& path() const { return path_; }

 private:
  MappedFile() = default;

  std::string path_;
  absl::Span<const std::byte> bytes_;
};

}  // namespace longspan

#endif  // LONGSPAN_RUNTIME_MAPPED_FILE_H_
