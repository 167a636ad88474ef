#include "runtime/jinja/case.h"

#include <algorithm>

#include "absl/strings/ascii.h"
#include "kernels/base/status_macros.h"
#include "runtime/jinja/text.h"
#include "runtime/tokenizer_regex.h"

namespace longspan::jinja {
namespace {

absl::Status CheckCase(std::string_view text) {
  if (IsAscii(text)) return absl::OkStatus();
  static const absl::StatusOr<Regex>* const kCased = new absl::StatusOr<Regex>(
      Regex::Compile(R"((?=[^\x00-\x7F])(?:\p{Lu}|\p{Ll}|\p{Lt}|\p{Lm}|\p{Nl}|\p{Mn}|[Ⓐ-ⓩ]))"));
  if (!kCased->ok()) return kCased->status();
  RegexMatcher matcher(**kCased);
  size_t begin, end;
  LONGSPAN_ASSIGN_OR_RETURN(const bool cased, matcher.Find(text, 0, &begin, &end));
  if (!cased) return absl::OkStatus();
  return absl::UnimplementedError(
      "upper and lower case of letters outside of ASCII is not supported");
}

template <typename Map>
absl::StatusOr<std::string> MapBytes(std::string_view text, Map map) {
  LONGSPAN_RETURN_IF_ERROR(CheckCase(text));
  std::string out(text);
  char previous = '\0';
  for (char& c : out) {
    const char original = c;
    c = map(c, previous);
    previous = original;
  }
  return out;
}

}  // namespace

absl::StatusOr<std::string> Upper(std::string_view text) {
  return MapBytes(text, [](char c, char) { return absl::ascii_toupper(c); });
}

absl::StatusOr<std::string> Lower(std::string_view text) {
  return MapBytes(text, [](char c, char) { return absl::ascii_tolower(c); });
}

absl::StatusOr<std::string> Capitalize(std::string_view text) {
  LONGSPAN_ASSIGN_OR_RETURN(std::string out, Lower(text));
  if (!out.empty()) out[0] = absl::ascii_toupper(out[0]);
  return out;
}

absl::StatusOr<std::string> TitleWords(std::string_view text) {
  return MapBytes(text, [](char c, char previous) {
    return absl::ascii_isalpha(previous) ? absl::ascii_tolower(c) : absl::ascii_toupper(c);
  });
}

absl::StatusOr<std::string> TitleFilter(std::string_view text) {
  LONGSPAN_ASSIGN_OR_RETURN(std::string out, Lower(text));
  bool starts = true;
  for (size_t at = 0; at < out.size(); at += CharacterBytes(out[at])) {
    if (starts) out[at] = absl::ascii_toupper(out[at]);
    const std::string_view rest = std::string_view(out).substr(at);
    starts = IsSpace(FirstCharacter(rest)) ||
             std::string_view("-({[<").find(out[at]) != std::string_view::npos;
  }
  return out;
}

absl::StatusOr<std::string> SwapCase(std::string_view text) {
  return MapBytes(text, [](char c, char) {
    return absl::ascii_isupper(c) ? absl::ascii_tolower(c) : absl::ascii_toupper(c);
  });
}

absl::StatusOr<bool> IsUpper(std::string_view text) {
  LONGSPAN_RETURN_IF_ERROR(CheckCase(text));
  return std::any_of(text.begin(), text.end(), absl::ascii_isupper) &&
         std::none_of(text.begin(), text.end(), absl::ascii_islower);
}

absl::StatusOr<bool> IsLower(std::string_view text) {
  LONGSPAN_RETURN_IF_ERROR(CheckCase(text));
  return std::any_of(text.begin(), text.end(), absl::ascii_islower) &&
         std::none_of(text.begin(), text.end(), absl::ascii_isupper);
}

}  // namespace longspan::jinja
