#ifndef LONGSPAN_RUNTIME_JSON_FILE_H_
#define LONGSPAN_RUNTIME_JSON_FILE_H_

#include <nlohmann/json.hpp>
#include <string>
#include <string_view>

#include "absl/status/statusor.h"

namespace longspan {

// One JSON object. InvalidArgument: the text is malformed, and where; is not an object; or nests
// deeper than 100 levels, for copies of a document recurse.
absl::StatusOr<nlohmann::json> ParseJsonObject(std::string_view text);

// A file that holds one. InvalidArgument also if it is larger than `max_bytes`. Messages begin with
// the path.
absl::StatusOr<nlohmann::json> ReadJsonObject(const std::string& path, size_t max_bytes);

}  // namespace longspan

#endif  // LONGSPAN_RUNTIME_JSON_FILE_H_
