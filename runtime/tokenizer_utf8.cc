#include "runtime/tokenizer_utf8.h"

#include <array>
#include <cstring>

namespace longspan {
namespace {

// Bytes of a character and the range of its second byte, by its first.
struct LeadByte {
  int length;  // 0: cannot begin a character
  uint8_t low, high;
};
constexpr LeadByte Lead(uint8_t byte) {
  if (byte < 0x80) return {1, 0, 0};
  if (byte < 0xC2) return {0, 0, 0};
  if (byte < 0xE0) return {2, 0x80, 0xBF};
  if (byte == 0xE0) return {3, 0xA0, 0xBF};
  if (byte == 0xED) return {3, 0x80, 0x9F};
  if (byte < 0xF0) return {3, 0x80, 0xBF};
  if (byte == 0xF0) return {4, 0x90, 0xBF};
  if (byte < 0xF4) return {4, 0x80, 0xBF};
  if (byte == 0xF4) return {4, 0x80, 0x8F};
  return {0, 0, 0};
}

// The bytes that are printable in Latin-1 stand for themselves; the other 68 are U+0100 and on.
struct ByteAlphabet {
  std::array<char16_t, 256> character{};
  std::array<int16_t, 512> byte{};  // -1: not of the alphabet
};
constexpr ByteAlphabet MakeByteAlphabet() {
  ByteAlphabet alphabet;
  for (int16_t& byte : alphabet.byte) byte = -1;
  char16_t next = 0x100;
  for (int b = 0; b < 256; ++b) {
    const bool printable = (b >= 0x21 && b <= 0x7E) || (b >= 0xA1 && b != 0xAD);
    const char16_t c = printable ? static_cast<char16_t>(b) : next++;
    alphabet.character[b] = c;
    alphabet.byte[c] = static_cast<int16_t>(b);
  }
  return alphabet;
}
constexpr ByteAlphabet kAlphabet = MakeByteAlphabet();

}  // namespace

Utf8Step NextUtf8(std::string_view text) {
  const LeadByte lead = Lead(static_cast<uint8_t>(text[0]));
  if (lead.length == 0) return {Utf8Kind::kIllFormed, 1};
  for (int i = 1; i < lead.length; ++i) {
    if (i == static_cast<int>(text.size())) return {Utf8Kind::kIncomplete, i};
    const uint8_t byte = static_cast<uint8_t>(text[i]);
    const uint8_t low = i == 1 ? lead.low : 0x80;
    const uint8_t high = i == 1 ? lead.high : 0xBF;
    if (byte < low || byte > high) return {Utf8Kind::kIllFormed, i};
  }
  return {Utf8Kind::kCharacter, lead.length};
}

uint32_t CodePoint(std::string_view character) {
  constexpr uint8_t kLeadBits[] = {0, 0x7F, 0x1F, 0x0F, 0x07};  // by the character's length
  uint32_t code = static_cast<uint8_t>(character[0]) & kLeadBits[character.size()];
  for (const char c : character.substr(1)) code = code << 6 | (static_cast<uint8_t>(c) & 0x3F);
  return code;
}

int64_t WellFormedPrefix(std::string_view text) {
  size_t i = 0;
  while (i < text.size()) {
    uint64_t eight;
    if (i + sizeof(eight) <= text.size()) {
      std::memcpy(&eight, text.data() + i, sizeof(eight));
      if ((eight & 0x8080808080808080u) == 0) {
        i += sizeof(eight);
        continue;
      }
    }
    const Utf8Step step = NextUtf8(text.substr(i));
    if (step.kind != Utf8Kind::kCharacter) break;
    i += step.length;
  }
  return static_cast<int64_t>(i);
}

int64_t AppendWellFormed(std::string_view text, std::string& out, std::string* incomplete) {
  int64_t replaced = 0;
  if (incomplete != nullptr) incomplete->clear();
  while (true) {
    const int64_t good = WellFormedPrefix(text);
    out.append(text.substr(0, good));
    text.remove_prefix(good);
    if (text.empty()) return replaced;
    const Utf8Step step = NextUtf8(text);
    if (step.kind == Utf8Kind::kIncomplete && incomplete != nullptr) {
      incomplete->assign(text);
      return replaced;
    }
    out.append(kReplacementCharacter);
    ++replaced;
    text.remove_prefix(step.length);
  }
}

std::optional<std::string> BytesOfByteLevelToken(std::string_view token) {
  std::string bytes;
  for (size_t i = 0; i < token.size();) {
    const uint8_t first = static_cast<uint8_t>(token[i]);
    unsigned character = first;
    if (first >= 0x80) {  // the alphabet ends below U+0200: two bytes
      const Utf8Step step = NextUtf8(token.substr(i));
      if (step.kind != Utf8Kind::kCharacter || step.length != 2) return std::nullopt;
      character = (first & 0x1Fu) << 6 | (static_cast<uint8_t>(token[i + 1]) & 0x3Fu);
      ++i;
    }
    ++i;
    if (character >= kAlphabet.byte.size() || kAlphabet.byte[character] < 0) return std::nullopt;
    bytes.push_back(static_cast<char>(kAlphabet.byte[character]));
  }
  return bytes;
}

std::string ByteLevelCharacter(uint8_t byte) {
  const unsigned c = kAlphabet.character[byte];
  if (c < 0x80) return std::string(1, static_cast<char>(c));
  return {static_cast<char>(0xC0 | c >> 6), static_cast<char>(0x80 | (c & 0x3F))};
}

}  // namespace longspan
