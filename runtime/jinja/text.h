#ifndef LONGSPAN_RUNTIME_JINJA_TEXT_H_
#define LONGSPAN_RUNTIME_JINJA_TEXT_H_

#include <cstdint>
#include <string>
#include <string_view>
#include <type_traits>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"

// Text as Python sees it. Every text here is well-formed UTF-8; lengths and positions that a
// template sees count code points.
namespace longspan::jinja {

// Like std::string's, in time linear in both lengths.
size_t FindText(std::string_view text, std::string_view piece, size_t from = 0);
size_t RFindText(std::string_view text, std::string_view piece);

using Int = __int128;  // a superset of what JSON can hold; Python's integers have no limit

// Abseil may have a string_view of its own, which std::string_view does not convert to.
template <typename T>
decltype(auto) ForAbsl(const T& value) {
  if constexpr (std::is_same_v<T, std::string_view>) {
    return absl::string_view(value.data(), value.size());
  } else {
    return (value);
  }
}
template <typename... Args>
std::string StrCat(const Args&... args) {
  return absl::StrCat(ForAbsl(args)...);
}
template <typename... Args>
void StrAppend(std::string* out, const Args&... args) {
  absl::StrAppend(out, ForAbsl(args)...);
}
std::vector<std::string_view> Split(std::string_view text, char separator);

int64_t CodePoints(std::string_view text);
// Bytes of the character that begins with this byte.
int CharacterBytes(char first);
// The character at the beginning of a non-empty text.
char32_t FirstCharacter(std::string_view text);
void AppendCharacter(char32_t character, std::string& out);
// Where the code point of this number begins; the size of the text for one behind its end.
size_t ByteOffset(std::string_view text, int64_t code_point);
std::vector<std::string_view> Characters(std::string_view text);

// What str.isspace, str.strip and the regular expression \s take for white space.
bool IsSpace(char32_t character);
size_t LeadingSpace(std::string_view text);  // bytes
std::string_view WithoutTrailingSpace(std::string_view text);
// str.strip and its siblings; without `characters` (nullptr): white space.
std::string_view Strip(std::string_view text, const std::string_view* characters, bool left,
                       bool right);
bool IsAscii(std::string_view text);

// str.splitlines
std::vector<std::string_view> SplitLines(std::string_view text, bool keep_ends);
// \r\n and \r as \n.
std::string NormalizeNewlines(std::string_view text);

std::string IntText(Int value);
// repr(float): the shortest digits that read back as the same number.
std::string FloatText(double value);

// Appends repr(str).
absl::Status AppendStringRepr(std::string_view text, std::string& out);
// Appends a JSON string as json.dumps writes it.
void AppendJsonString(std::string_view text, bool ensure_ascii, std::string& out);

}  // namespace longspan::jinja

#endif  // LONGSPAN_RUNTIME_JINJA_TEXT_H_
