#ifndef LONGSPAN_RUNTIME_NEW_FILE_H_
#define LONGSPAN_RUNTIME_NEW_FILE_H_

#include <sys/types.h>

#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace longspan {

// A file that replaces what `path` was as a whole or not at all. Errors name the path and the
// system's reason.
class NewFile {
 public:
  // Written beside `path` until Commit; removed if that is never reached.
  static absl::StatusOr<NewFile> Create(const std::string& path, mode_t mode = 0666);

  NewFile(NewFile&& other) noexcept;
  NewFile& operator=(NewFile&&) = delete;
  ~NewFile();

  absl::Status Write(absl::string_view bytes);
  // Flushes it to disk, and renames it into place.
  absl::Status Commit();

 private:
  NewFile() = default;
  absl::Status Error(absl::string_view action) const;  // of errno

  std::string path_;
  std::string temporary_;
  int descriptor_ = -1;  // -1: there is nothing to remove
};

}  // namespace longspan

#endif  // LONGSPAN_RUNTIME_NEW_FILE_H_
