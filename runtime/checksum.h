#ifndef LONGSPAN_RUNTIME_CHECKSUM_H_
#define LONGSPAN_RUNTIME_CHECKSUM_H_

#include <cstdint>
#include <string>

#include "absl/strings/string_view.h"

namespace longspan {

inline constexpr int64_t kChecksumBytes = 32;

// 32 hex digits of XXH3 (128 bits): tells of damage, not of forgery.
std::string Checksum(absl::string_view bytes);

}  // namespace longspan

#endif  // LONGSPAN_RUNTIME_CHECKSUM_H_
