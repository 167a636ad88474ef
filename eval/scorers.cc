#include "eval/scorers.h"

#include <algorithm>
#include <string>

#include "absl/strings/ascii.h"

namespace longspan {
namespace {

bool IsWordCharacter(char c) {
  const auto byte = static_cast<unsigned char>(c);
  return absl::ascii_isalnum(byte) || byte >= 0x80;  // a part of another character
}

}  // namespace

bool HasWord(absl::string_view text, absl::string_view word) {
  const std::string lower = absl::AsciiStrToLower(text);
  const std::string wanted = absl::AsciiStrToLower(word);
  if (wanted.empty()) return false;
  for (size_t at = lower.find(wanted); at != lower.npos; at = lower.find(wanted, at + 1)) {
    const size_t end = at + wanted.size();
    const bool begins = at == 0 || !IsWordCharacter(lower[at - 1]);
    if (begins && (end == lower.size() || !IsWordCharacter(lower[end]))) return true;
  }
  return false;
}

double ShareFound(absl::string_view answer, const EvalCase& expected) {
  const auto found =
      std::count_if(expected.answers.begin(), expected.answers.end(),
                    [&](const std::string& wanted) { return HasWord(answer, wanted); });
  return static_cast<double>(found) / static_cast<double>(expected.answers.size());
}

}  // namespace longspan
