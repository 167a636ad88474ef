#ifndef LONGSPAN_RUNTIME_JINJA_PARSER_H_
#define LONGSPAN_RUNTIME_JINJA_PARSER_H_

#include <string_view>

#include "absl/status/statusor.h"
#include "runtime/jinja/ast.h"

namespace longspan::jinja {

inline constexpr size_t kMaxSourceBytes = 1 << 20;
// Statements and expressions within each other: what walks over them recurses.
inline constexpr int kMaxParseDepth = 150;

// InvalidArgument: malformed; Unimplemented: outside of the subset, and it says what; both with
// the line. ResourceExhausted: too large or too deep.
absl::StatusOr<Body> Parse(std::string_view source);

}  // namespace longspan::jinja

#endif  // LONGSPAN_RUNTIME_JINJA_PARSER_H_
