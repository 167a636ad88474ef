#ifndef LONGSPAN_RUNTIME_JINJA_LEXER_H_
#define LONGSPAN_RUNTIME_JINJA_LEXER_H_

#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "runtime/jinja/text.h"

namespace longspan::jinja {

enum class TokenKind {
  kData,           // text outside of tags
  kVariableBegin,  // {{
  kVariableEnd,
  kBlockBegin,  // {%
  kBlockEnd,
  kName,
  kString,
  kInteger,
  kFloat,
  kOperator,
  kEnd,
};

struct Token {
  TokenKind kind;
  int line;
  std::string text;  // data, name, operator; a string's contents
  Int integer = 0;
  double number = 0;
};

// "chat template line 12: ..."
absl::Status SyntaxError(int line, std::string_view message);

// The tokens of a template as jinja2 finds them with trim_blocks and lstrip_blocks; the last is
// kEnd. `source` must be well-formed UTF-8.
absl::StatusOr<std::vector<Token>> Tokenize(std::string_view source);

}  // namespace longspan::jinja

#endif  // LONGSPAN_RUNTIME_JINJA_LEXER_H_
