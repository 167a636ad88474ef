#include "runtime/json_file.h"

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "kernels/base/status_macros.h"
#include "runtime/mapped_file.h"

namespace longspan {
namespace {

using nlohmann::json;

constexpr int kMaxDepth = 100;

}  // namespace

absl::StatusOr<json> ParseJsonObject(std::string_view text) {
  bool too_deep = false;
  const auto limit_depth = [&](int depth, json::parse_event_t, json&) {
    too_deep = too_deep || depth > kMaxDepth;
    return depth <= kMaxDepth;
  };
  json value;
  size_t error_byte = 0;
  try {
    value = json::parse(text, limit_depth);
  } catch (const json::parse_error& error) {
    error_byte = error.byte;
  } catch (const json::out_of_range&) {
    return absl::InvalidArgumentError("not valid JSON: it has a number that is out of range");
  }
  if (too_deep) {
    return absl::InvalidArgumentError(
        absl::StrCat("JSON nested deeper than ", kMaxDepth, " levels"));
  }
  if (error_byte > text.size()) {
    return absl::InvalidArgumentError(
        absl::StrCat("not valid JSON: it ends at byte ", text.size(), ", in the middle"));
  }
  if (error_byte > 0) {
    return absl::InvalidArgumentError(absl::StrCat("not valid JSON at byte ", error_byte));
  }
  if (!value.is_object()) {
    return absl::InvalidArgumentError(
        absl::StrCat("expected a JSON object, found ", value.type_name()));
  }
  return value;
}

absl::StatusOr<json> ReadJsonObject(const std::string& path, size_t max_bytes) {
  LONGSPAN_ASSIGN_OR_RETURN(const MappedFile file, MappedFile::Open(path));
  const auto bytes = file.bytes();
  if (bytes.size() > max_bytes) {
    return absl::InvalidArgumentError(
        absl::StrCat(path, ": ", bytes.size(), " bytes, over the limit of ", max_bytes));
  }
  absl::StatusOr<json> value =
      ParseJsonObject({reinterpret_cast<const char*>(bytes.data()), bytes.size()});
  if (value.ok()) return value;
  return absl::Status(value.status().code(), absl::StrCat(path, ": ", value.status().message()));
}

}  // namespace longspan
