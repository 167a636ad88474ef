#ifndef LONGSPAN_RUNTIME_BATCH_JSON_H_
#define LONGSPAN_RUNTIME_BATCH_JSON_H_

#include <optional>
#include <string>

#include "absl/strings/string_view.h"

namespace longspan {

// How every output line begins: what tells a torn line from somebody's file.
constexpr absl::string_view kBatchLineStart = R"({"id":"batch_req_)";

// What a rerun must know of an output line.
struct BatchOutputLine {
  std::string custom_id;   // empty: null
  bool is_answer = false;  // status 200 and no error
};

// nullopt if it is not a line of a batch output.
std::optional<BatchOutputLine> ParseBatchOutputLine(absl::string_view line);

}  // namespace longspan

#endif  // LONGSPAN_RUNTIME_BATCH_JSON_H_
