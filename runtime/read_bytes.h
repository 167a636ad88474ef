#ifndef LONGSPAN_RUNTIME_READ_BYTES_H_
#define LONGSPAN_RUNTIME_READ_BYTES_H_

#include <cstdint>
#include <string>

#include "absl/status/status.h"

namespace longspan {

// Replaces `text` by `bytes` bytes of the file from `offset` on; -1: by all that follow. NotFound:
// there is no such file. OutOfRange: it ends before. Other errors are the system's; all name the
// path.
absl::Status ReadBytes(const std::string& path, int64_t offset, int64_t bytes, std::string* text);

}  // namespace longspan

#endif  // LONGSPAN_RUNTIME_READ_BYTES_H_
