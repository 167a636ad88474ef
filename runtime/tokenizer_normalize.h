#ifndef LONGSPAN_RUNTIME_TOKENIZER_NORMALIZE_H_
#define LONGSPAN_RUNTIME_TOKENIZER_NORMALIZE_H_

#include <optional>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "absl/status/statusor.h"
#include "runtime/tokenizer_regex.h"
#include "runtime/unicode_normalize.h"

namespace longspan {

// Puts `text` before a text that is not empty.
struct PrependStep {
  std::string text;
};

// Puts `content` in the place of `literal`, or of the matches of `regex` where there is one.
struct ReplaceStep {
  std::string literal;
  std::optional<Regex> regex;
  std::string content;
};

// Normalization: each step rewrites what the one before left.
using NormalizerStep = std::variant<PrependStep, ReplaceStep, NormalForm>;

// `text` with `content` for each `literal`, which is not empty.
std::string ReplaceAll(std::string_view text, std::string_view literal, std::string_view content);

// Memory to run the steps, which it must not outlive; for one thread.
class NormalizerRun {
 public:
  explicit NormalizerRun(const std::vector<NormalizerStep>& steps);

  // `text` (well-formed UTF-8) after all steps: valid until the next call, and as long as `text`.
  absl::StatusOr<std::string_view> Normalize(std::string_view text);

 private:
  const std::vector<NormalizerStep>& steps_;
  std::vector<std::optional<RegexMatcher>> matchers_;  // of each step, where it has a pattern
  std::string text_;
};

}  // namespace longspan

#endif  // LONGSPAN_RUNTIME_TOKENIZER_NORMALIZE_H_
