#include "runtime/jinja/text.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <cstdlib>
#include <optional>

#include "absl/strings/str_format.h"
#include "kernels/base/status_macros.h"
#include "runtime/tokenizer_regex.h"

namespace longspan::jinja {

std::vector<std::string_view> Split(std::string_view text, char separator) {
  std::vector<std::string_view> pieces;
  size_t at = 0;
  for (size_t end = text.find(separator); end != text.npos; end = text.find(separator, at)) {
    pieces.push_back(text.substr(at, end - at));
    at = end + 1;
  }
  pieces.push_back(text.substr(at));
  return pieces;
}

size_t FindText(std::string_view text, std::string_view piece, size_t from) {
  if (from > text.size()) return std::string_view::npos;
  // The library's memmem is linear; std::string's find is not.
  const void* found = memmem(text.data() + from, text.size() - from, piece.data(), piece.size());
  return found == nullptr ? std::string_view::npos
                          : static_cast<size_t>(static_cast<const char*>(found) - text.data());
}

size_t RFindText(std::string_view text, std::string_view piece) {
  size_t last = std::string_view::npos;
  if (piece.empty()) return text.size();
  // The first of the reversed is the last.
  const std::string reversed(text.rbegin(), text.rend());
  const size_t at = FindText(reversed, std::string(piece.rbegin(), piece.rend()));
  if (at != std::string_view::npos) last = text.size() - at - piece.size();
  return last;
}

int64_t CodePoints(std::string_view text) {
  return std::count_if(text.begin(), text.end(),
                       [](char byte) { return (static_cast<uint8_t>(byte) & 0xC0) != 0x80; });
}

int CharacterBytes(char first) {
  const auto byte = static_cast<uint8_t>(first);
  return byte < 0x80 ? 1 : byte < 0xE0 ? 2 : byte < 0xF0 ? 3 : 4;
}

char32_t FirstCharacter(std::string_view text) {
  const auto first = static_cast<uint8_t>(text[0]);
  const int bytes = CharacterBytes(text[0]);
  if (bytes == 1) return first;
  char32_t character = first & (0xFF >> (bytes + 1));
  for (int i = 1; i < bytes && i < static_cast<int>(text.size()); ++i) {
    character = character << 6 | (static_cast<uint8_t>(text[i]) & 0x3F);
  }
  return character;
}

void AppendCharacter(char32_t character, std::string& out) {
  const auto tail = [&](int shift) {
    out.push_back(static_cast<char>(0x80 | (character >> shift & 0x3F)));
  };
  if (character < 0x80) {
    out.push_back(static_cast<char>(character));
  } else if (character < 0x800) {
    out.push_back(static_cast<char>(0xC0 | character >> 6));
    tail(0);
  } else if (character < 0x10000) {
    out.push_back(static_cast<char>(0xE0 | character >> 12));
    tail(6), tail(0);
  } else {
    out.push_back(static_cast<char>(0xF0 | character >> 18));
    tail(12), tail(6), tail(0);
  }
}

size_t ByteOffset(std::string_view text, int64_t code_point) {
  size_t at = 0;
  for (; code_point > 0 && at < text.size(); --code_point) at += CharacterBytes(text[at]);
  return std::min(at, text.size());
}

std::vector<std::string_view> Characters(std::string_view text) {
  std::vector<std::string_view> characters;
  for (size_t at = 0; at < text.size(); at += characters.back().size()) {
    characters.push_back(text.substr(at, CharacterBytes(text[at])));
  }
  return characters;
}

bool IsSpace(char32_t c) {
  return (c >= 0x09 && c <= 0x0D) || (c >= 0x1C && c <= 0x20) || c == 0x85 || c == 0xA0 ||
         c == 0x1680 || (c >= 0x2000 && c <= 0x200A) || c == 0x2028 || c == 0x2029 || c == 0x202F ||
         c == 0x205F || c == 0x3000;
}

size_t LeadingSpace(std::string_view text) {
  size_t at = 0;
  while (at < text.size() && IsSpace(FirstCharacter(text.substr(at)))) {
    at += CharacterBytes(text[at]);
  }
  return at;
}

namespace {

// Bytes of the last character.
size_t LastBytes(std::string_view text) {
  size_t bytes = 1;
  while (bytes < text.size() && (text[text.size() - bytes] & 0xC0) == 0x80) ++bytes;
  return bytes;
}

}  // namespace

std::string_view WithoutTrailingSpace(std::string_view text) {
  return Strip(text, nullptr, false, true);
}

std::string_view Strip(std::string_view text, const std::string_view* characters, bool left,
                       bool right) {
  const auto strips = [&](std::string_view character) {
    // A character's bytes occur in well-formed text only as that character.
    return characters == nullptr ? IsSpace(FirstCharacter(character))
                                 : characters->find(character) != std::string_view::npos;
  };
  while (left && !text.empty() && strips(text.substr(0, CharacterBytes(text[0])))) {
    text.remove_prefix(CharacterBytes(text[0]));
  }
  while (right && !text.empty() && strips(text.substr(text.size() - LastBytes(text)))) {
    text.remove_suffix(LastBytes(text));
  }
  return text;
}

bool IsAscii(std::string_view text) {
  return std::all_of(text.begin(), text.end(),
                     [](char byte) { return static_cast<uint8_t>(byte) < 0x80; });
}

std::vector<std::string_view> SplitLines(std::string_view text, bool keep_ends) {
  const auto breaks = [](char32_t c) {
    return (c >= 0x0A && c <= 0x0D) || (c >= 0x1C && c <= 0x1E) || c == 0x85 || c == 0x2028 ||
           c == 0x2029;
  };
  std::vector<std::string_view> lines;
  size_t begin = 0, at = 0;
  while (at < text.size()) {
    size_t bytes = CharacterBytes(text[at]);
    if (!breaks(FirstCharacter(text.substr(at)))) {
      at += bytes;
      continue;
    }
    if (text.substr(at, 2) == "\r\n") bytes = 2;
    lines.push_back(text.substr(begin, at - begin + (keep_ends ? bytes : 0)));
    begin = at += bytes;
  }
  if (begin < text.size()) lines.push_back(text.substr(begin));
  return lines;
}

std::string NormalizeNewlines(std::string_view text) {
  std::string out;
  out.reserve(text.size());
  for (size_t i = 0; i < text.size(); ++i) {
    if (text[i] != '\r') {
      out.push_back(text[i]);
    } else if (text.substr(i, 2) != "\r\n") {
      out.push_back('\n');
    }
  }
  return out;
}

std::string IntText(Int value) {
  const bool negative = value < 0;
  auto rest = static_cast<unsigned __int128>(value);
  if (negative) rest = 0 - rest;
  std::string digits;
  do {
    digits.push_back(static_cast<char>('0' + static_cast<int>(rest % 10)));
    rest /= 10;
  } while (rest != 0);
  if (negative) digits.push_back('-');
  std::reverse(digits.begin(), digits.end());
  return digits;
}

std::string FloatText(double value) {
  if (std::isnan(value)) return "nan";
  if (std::isinf(value)) return value < 0 ? "-inf" : "inf";
  char buffer[64];
  const auto result =
      std::to_chars(buffer, buffer + sizeof(buffer), value, std::chars_format::scientific);
  const std::string_view text(buffer, result.ptr - buffer);
  const size_t e = text.find('e');
  const int exponent = std::atoi(std::string(text.substr(e + 1)).c_str());
  if (exponent >= 16 || exponent < -4) {
    return StrCat(text.substr(0, e),
                  absl::StrFormat("e%c%02d", exponent < 0 ? '-' : '+', std::abs(exponent)));
  }
  std::string digits;
  for (const char c : text.substr(0, e)) {
    if (c >= '0' && c <= '9') digits.push_back(c);
  }
  const std::string_view sign = text[0] == '-' ? "-" : "";
  if (exponent < 0) return StrCat(sign, "0.", std::string(-exponent - 1, '0'), digits);
  const size_t whole = exponent + 1;
  if (digits.size() < whole + 1) digits.append(whole + 1 - digits.size(), '0');
  return StrCat(sign, digits.substr(0, whole), ".", digits.substr(whole));
}

absl::Status AppendStringRepr(std::string_view text, std::string& out) {
  static const absl::StatusOr<Regex>* const kUnprintable =
      new absl::StatusOr<Regex>(Regex::Compile(R"(\p{C}|\p{Z})"));
  if (!kUnprintable->ok()) return kUnprintable->status();
  std::optional<RegexMatcher> matcher;
  const bool has_single = text.find('\'') != text.npos;
  const char quote = has_single && text.find('"') == text.npos ? '"' : '\'';
  out.push_back(quote);
  for (size_t at = 0; at < text.size(); at += CharacterBytes(text[at])) {
    const std::string_view character = text.substr(at, CharacterBytes(text[at]));
    const char32_t c = FirstCharacter(character);
    if (c == static_cast<char32_t>(quote) || c == '\\') {
      out.push_back('\\');
      out.push_back(static_cast<char>(c));
    } else if (c == '\n' || c == '\r' || c == '\t') {
      StrAppend(&out, c == '\n' ? "\\n" : c == '\r' ? "\\r" : "\\t");
    } else if (c < 0x80) {
      if (c >= 0x20 && c < 0x7F) {
        out.push_back(static_cast<char>(c));
      } else {
        absl::StrAppendFormat(&out, "\\x%02x", static_cast<uint32_t>(c));
      }
    } else {
      if (!matcher) matcher.emplace(**kUnprintable);
      size_t begin, end;
      LONGSPAN_ASSIGN_OR_RETURN(const bool hidden, matcher->Find(character, 0, &begin, &end));
      if (!hidden) {
        out.append(character);
      } else if (c < 0x100) {
        absl::StrAppendFormat(&out, "\\x%02x", static_cast<uint32_t>(c));
      } else if (c < 0x10000) {
        absl::StrAppendFormat(&out, "\\u%04x", static_cast<uint32_t>(c));
      } else {
        absl::StrAppendFormat(&out, "\\U%08x", static_cast<uint32_t>(c));
      }
    }
  }
  out.push_back(quote);
  return absl::OkStatus();
}

void AppendJsonString(std::string_view text, bool ensure_ascii, std::string& out) {
  static constexpr std::pair<char, std::string_view> kShort[] = {
      {'"', "\\\""}, {'\\', "\\\\"}, {'\n', "\\n"}, {'\r', "\\r"},
      {'\t', "\\t"}, {'\f', "\\f"},  {'\b', "\\b"}};
  out.push_back('"');
  for (size_t at = 0; at < text.size(); at += CharacterBytes(text[at])) {
    const char32_t c = FirstCharacter(text.substr(at));
    const auto* const known =
        std::find_if(std::begin(kShort), std::end(kShort),
                     [c](const auto& entry) { return static_cast<char32_t>(entry.first) == c; });
    if (known != std::end(kShort)) {
      out.append(known->second);
    } else if (c >= 0x10000 && ensure_ascii) {
      absl::StrAppendFormat(&out, "\\u%04x\\u%04x",
                            static_cast<uint32_t>(0xD800 + ((c - 0x10000) >> 10)),
                            static_cast<uint32_t>(0xDC00 + ((c - 0x10000) & 0x3FF)));
    } else if (c < 0x20 || (ensure_ascii && c >= 0x7F)) {
      absl::StrAppendFormat(&out, "\\u%04x", static_cast<uint32_t>(c));
    } else {
      out.append(text.substr(at, CharacterBytes(text[at])));
    }
  }
  out.push_back('"');
}

}  // namespace longspan::jinja
