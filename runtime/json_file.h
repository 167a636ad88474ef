#ifndef LONGSPAN_RUNTIME_JSON_FILE_H_
#define LONGSPAN_RUNTIME_JSON_FILE_H_

#include <cstdint>
#include <nlohmann/json.hpp>
#include <string>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "kernels/base/status_macros.h"
#include "runtime/mapped_file.h"

namespace longspan {

// Reads a file that holds one JSON object. Refuses one that is larger than `max_bytes` or nested
// deeper than 32 levels: copies of a document recurse.
inline absl::StatusOr<nlohmann::json> ReadJsonObject(const std::string& path, size_t max_bytes) {
  constexpr int kMaxDepth = 32;
  LONGSPAN_ASSIGN_OR_RETURN(const MappedFile file, MappedFile::Open(path));
  if (file.bytes().size() > max_bytes) {
    return absl::InvalidArgumentError(
        absl::StrCat(path, " has ", file.bytes().size(), " bytes, over the limit of ", max_bytes));
  }
  bool too_deep = false;
  const auto limit_depth = [&](int depth, nlohmann::json::parse_event_t, nlohmann::json&) {
    too_deep = too_deep || depth > kMaxDepth;
    return depth <= kMaxDepth;
  };
  const auto* text = reinterpret_cast<const char*>(file.bytes().data());
  nlohmann::json json = nlohmann::json::parse(text, text + file.bytes().size(), limit_depth,
                                              /*allow_exceptions=*/false);
  if (too_deep) {
    return absl::InvalidArgumentError(
        absl::StrCat(path, " is nested deeper than ", kMaxDepth, " levels"));
  }
  if (!json.is_object()) {
    return absl::InvalidArgumentError(
        absl::StrCat(path, json.is_discarded() ? " is not valid JSON" : " is not a JSON object"));
  }
  return json;
}

}  // namespace longspan

#endif  // LONGSPAN_RUNTIME_JSON_FILE_H_
