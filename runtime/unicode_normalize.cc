#include "runtime/unicode_normalize.h"

#include <utf8proc.h>

#include <algorithm>
#include <cstdint>
#include <iterator>
#include <vector>

namespace longspan {
namespace {

// The longest decomposition is that of U+FDFA: 18 characters.
constexpr int kMaxDecomposition = 32;

bool Composes(NormalForm form) { return form == NormalForm::kNfc || form == NormalForm::kNfkc; }
bool IsCompatible(NormalForm form) {
  return form == NormalForm::kNfkc || form == NormalForm::kNfkd;
}

// The library normalizes by Unicode 9. These are the characters of Unicode 10 to 15.1 that a newer
// version decomposes, composes or orders; and U+11A7, which utf8proc composes with the Hangul
// syllable before it although it is no trailing consonant.
struct Range {
  int32_t first, last;
};
constexpr Range kInert[] = {
    {0x7FD, 0x7FD},     {0x898, 0x89F},     {0x8CA, 0x8D3},     {0x9FE, 0x9FE},
    {0xC3C, 0xC3C},     {0xD3B, 0xD3C},     {0xEBA, 0xEBA},     {0x11A7, 0x11A7},
    {0x1715, 0x1715},   {0x1ABF, 0x1ACE},   {0x1DF6, 0x1DFA},   {0x32FF, 0x32FF},
    {0xA7F2, 0xA7F4},   {0xA82C, 0xA82C},   {0xAB69, 0xAB69},   {0x10781, 0x10785},
    {0x10787, 0x107B0}, {0x107B2, 0x107BA}, {0x10D24, 0x10D27}, {0x10EAB, 0x10EAC},
    {0x10EFD, 0x10EFF}, {0x10F46, 0x10F50}, {0x10F82, 0x10F85}, {0x11070, 0x11070},
    {0x1133B, 0x1133B}, {0x1145E, 0x1145E}, {0x11839, 0x1183A}, {0x11930, 0x11930},
    {0x11935, 0x11935}, {0x11938, 0x11938}, {0x1193D, 0x1193E}, {0x11943, 0x11943},
    {0x119E0, 0x119E0}, {0x11A34, 0x11A34}, {0x11A47, 0x11A47}, {0x11A99, 0x11A99},
    {0x11D42, 0x11D42}, {0x11D44, 0x11D45}, {0x11D97, 0x11D97}, {0x11F41, 0x11F42},
    {0x16FF0, 0x16FF1}, {0x1E030, 0x1E06D}, {0x1E08F, 0x1E08F}, {0x1E130, 0x1E136},
    {0x1E2AE, 0x1E2AE}, {0x1E2EC, 0x1E2EF}, {0x1E4EC, 0x1E4EF}, {0x1F16C, 0x1F16C},
    {0x1FBF0, 0x1FBF9},
};

bool IsInert(int32_t character) {
  const auto above = [](int32_t c, const Range& range) { return c < range.first; };
  const Range* range = std::upper_bound(std::begin(kInert), std::end(kInert), character, above);
  return range != std::begin(kInert) && character <= range[-1].last;
}

int CombiningClass(int32_t character) { return utf8proc_get_property(character)->combining_class; }

// Brings each run of combining marks into the canonical order. utf8proc's own ordering is quadratic
// in the length of a run.
void Reorder(std::vector<int32_t>& characters) {
  const auto by_class = [](int32_t a, int32_t b) { return CombiningClass(a) < CombiningClass(b); };
  for (auto begin = characters.begin(); begin != characters.end();) {
    const auto is_starter = [](int32_t c) { return CombiningClass(c) == 0; };
    begin = std::find_if_not(begin, characters.end(), is_starter);
    const auto end = std::find_if(begin, characters.end(), is_starter);
    std::stable_sort(begin, end, by_class);
    begin = end;
  }
}

class Normalizer {
 public:
  Normalizer(NormalForm form, std::string& out)
      : form_(form),
        decompose_(UTF8PROC_STABLE | UTF8PROC_DECOMPOSE |
                   (IsCompatible(form) ? UTF8PROC_COMPAT : 0)),
        out_(out) {}

  // Neither the first character of `piece` nor the one after it interacts with what is before it.
  void Append(std::string_view piece) {
    characters_.clear();
    while (!piece.empty()) {
      utf8proc_int32_t character;
      const auto bytes = utf8proc_iterate(reinterpret_cast<const utf8proc_uint8_t*>(piece.data()),
                                          static_cast<utf8proc_ssize_t>(piece.size()), &character);
      if (bytes <= 0) {  // ill-formed, against the contract
        Finish();
        out_.append(piece);
        return;
      }
      piece.remove_prefix(bytes);
      if (IsInert(character)) {
        Finish();
        characters_.push_back(character);
        Encode();
      } else {
        Decompose(character);
      }
    }
    Finish();
  }

 private:
  void Decompose(utf8proc_int32_t character) {
    utf8proc_int32_t parts[kMaxDecomposition];
    int boundary_class = UTF8PROC_BOUNDCLASS_START;
    const auto count =
        utf8proc_decompose_char(character, parts, kMaxDecomposition,
                                static_cast<utf8proc_option_t>(decompose_), &boundary_class);
    if (count < 0 || count > kMaxDecomposition) {
      characters_.push_back(character);
    } else {
      characters_.insert(characters_.end(), parts, parts + count);
    }
  }

  void Finish() {
    Reorder(characters_);
    if (Composes(form_)) {
      const auto count = utf8proc_normalize_utf32(
          characters_.data(), static_cast<utf8proc_ssize_t>(characters_.size()),
          static_cast<utf8proc_option_t>(UTF8PROC_STABLE | UTF8PROC_COMPOSE));
      characters_.resize(std::max<utf8proc_ssize_t>(count, 0));
    }
    Encode();
  }

  void Encode() {
    for (const int32_t character : characters_) {
      utf8proc_uint8_t bytes[4];
      const auto count = utf8proc_encode_char(character, bytes);
      out_.append(reinterpret_cast<const char*>(bytes), count);
    }
    characters_.clear();
  }

  NormalForm form_;
  int decompose_;
  std::string& out_;
  std::vector<int32_t> characters_;
};

bool IsAscii(char c) { return (c & 0x80) == 0; }

}  // namespace

void AppendNormalized(std::string_view text, NormalForm form, std::string& out) {
  // ASCII changes only by a mark that follows it, so that it is copied but for its last character.
  Normalizer normalizer(form, out);
  while (!text.empty()) {
    size_t plain = std::find_if_not(text.begin(), text.end(), IsAscii) - text.begin();
    if (plain == text.size()) {
      out.append(text);
      return;
    }
    if (plain > 0) --plain;
    out.append(text.substr(0, plain));
    text.remove_prefix(plain);
    const size_t end = std::find_if(text.begin() + 1, text.end(), IsAscii) - text.begin();
    normalizer.Append(text.substr(0, end));
    text.remove_prefix(end);
  }
}

}  // namespace longspan
