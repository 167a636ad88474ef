#ifndef LONGSPAN_RUNTIME_TOKENIZER_UTF8_H_
#define LONGSPAN_RUNTIME_TOKENIZER_UTF8_H_

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

namespace longspan {

inline constexpr std::string_view kReplacementCharacter = "\xEF\xBF\xBD";  // U+FFFD

enum class Utf8Kind { kCharacter, kIllFormed, kIncomplete };

// The first character of a non-empty text, or its maximal ill-formed subpart (Unicode 3.9, table
// 3-7). kIncomplete: the text ends within what may still become a character.
struct Utf8Step {
  Utf8Kind kind;
  int length;  // bytes, 1 to 4
};
Utf8Step NextUtf8(std::string_view text);

// The code point of one well-formed character.
uint32_t CodePoint(std::string_view character);

// How many bytes at the beginning of `text` are well-formed.
int64_t WellFormedPrefix(std::string_view text);

// Appends `text` to `out` with U+FFFD for ill-formed subparts and returns their number. With
// `incomplete` an unfinished character at the end goes there instead (it is overwritten).
int64_t AppendWellFormed(std::string_view text, std::string& out,
                         std::string* incomplete = nullptr);

// GPT-2's alphabet: each byte is one printable character in the vocabulary of a byte-level BPE.
// The bytes that `token` spells; nullopt where it has a character outside the alphabet.
std::optional<std::string> BytesOfByteLevelToken(std::string_view token);
// The character of one byte.
std::string ByteLevelCharacter(uint8_t byte);

}  // namespace longspan

#endif  // LONGSPAN_RUNTIME_TOKENIZER_UTF8_H_
