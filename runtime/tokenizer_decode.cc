#include "runtime/tokenizer_decode.h"

#include <algorithm>
#include <optional>

#include "absl/strings/ascii.h"
#include "absl/strings/numbers.h"
#include "runtime/tokenizer_normalize.h"
#include "runtime/tokenizer_utf8.h"

namespace longspan {
namespace {

// The byte that <0xHH> stands for. The library's number parser also takes a plus sign.
std::optional<char> ByteOfToken(std::string_view token) {
  if (token.size() != 6 || !token.starts_with("<0x") || token[5] != '>') return std::nullopt;
  std::string digits(token.substr(3, 2));
  if (digits[0] == '+') digits[0] = '0';
  uint32_t byte;
  if (!absl::ascii_isxdigit(digits[0]) || !absl::ascii_isxdigit(digits[1]) ||
      !absl::SimpleHexAtoi(digits, &byte)) {
    return std::nullopt;
  }
  return static_cast<char>(byte);
}

}  // namespace

bool TokenDecoder::FirstDiffers() const {
  return std::any_of(replacements.begin(), replacements.end(),
                     [](const Replacement& r) { return r.first_is_empty; });
}

DecodedToken DecodeToken(const TokenDecoder& decoder, std::string_view token, bool is_first) {
  std::string text(token);
  for (const TokenDecoder::Replacement& replacement : decoder.replacements) {
    text = ReplaceAll(text, replacement.pattern,
                      is_first && replacement.first_is_empty ? "" : replacement.content);
  }
  if (decoder.byte_level) return {BytesOfByteLevelToken(text).value_or(text)};
  if (decoder.byte_fallback) {
    if (const std::optional<char> byte = ByteOfToken(text)) return {std::string(1, *byte), true};
  }
  return {text};
}

std::string DecodeByteRun(std::string_view run) {
  if (WellFormedPrefix(run) == static_cast<int64_t>(run.size())) return std::string(run);
  std::string text;
  for (size_t i = 0; i < run.size(); ++i) text += kReplacementCharacter;
  return text;
}

}  // namespace longspan
