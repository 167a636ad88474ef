#include "runtime/read_bytes.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>

#include "absl/cleanup/cleanup.h"
#include "absl/strings/str_cat.h"

namespace longspan {

absl::Status ReadBytes(const std::string& path, int64_t offset, int64_t bytes, std::string* text) {
  const int descriptor = open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (descriptor < 0) {
    const int code = errno;
    const absl::Status error = absl::ErrnoToStatus(code, absl::StrCat("cannot open ", path));
    // A device that is gone is no file that never was.
    const bool is_gone = absl::IsNotFound(error) && code != ENOENT;
    return is_gone ? absl::UnavailableError(error.message()) : error;
  }
  const absl::Cleanup close_descriptor = [descriptor] { close(descriptor); };
  struct stat info;
  if (fstat(descriptor, &info) != 0) {
    return absl::ErrnoToStatus(errno, absl::StrCat("cannot inspect ", path));
  }
  if (bytes < 0) bytes = std::max<int64_t>(0, info.st_size - offset);
  // Before room is made: what says how long the file is may be wrong.
  if (bytes > info.st_size - offset) {
    return absl::OutOfRangeError(absl::StrCat(path, " ends at byte ", info.st_size));
  }
  text->resize(bytes);
  for (int64_t done = 0; done < bytes;) {
    const ssize_t count = pread(descriptor, text->data() + done, bytes - done, offset + done);
    if (count < 0 && errno == EINTR) continue;
    if (count < 0) return absl::ErrnoToStatus(errno, absl::StrCat("cannot read ", path));
    if (count == 0) return absl::OutOfRangeError(absl::StrCat(path, " became shorter"));
    done += count;
  }
  return absl::OkStatus();
}

}  // namespace longspan
