#ifndef LONGSPAN_RUNTIME_TOKENIZER_DECODE_H_
#define LONGSPAN_RUNTIME_TOKENIZER_DECODE_H_

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace longspan {

// What the `decoder` of a tokenizer.json makes of tokens.
struct TokenDecoder {
  // Puts `content` in the place of `pattern`, in the first token nothing where `first_is_empty`.
  struct Replacement {
    std::string pattern;
    std::string content;
    bool first_is_empty = false;
  };
  std::vector<Replacement> replacements;  // in each token for itself, in this order
  bool byte_level = false;                // tokens are spelt in GPT-2's alphabet of bytes
  bool byte_fallback = false;             // tokens like <0x0A> are bytes
  std::string stripped;                   // up to strip_count of these leave the text's beginning
  int64_t strip_count = 0;

  // Whether the first token of a text is decoded differently from the others.
  bool FirstDiffers() const;
};

struct DecodedToken {
  std::string bytes;
  bool is_byte = false;  // one byte of a run that is decoded as a whole
};
DecodedToken DecodeToken(const TokenDecoder& decoder, std::string_view token, bool is_first);

// A text from a run of byte tokens: as the library does it, the run is well-formed UTF-8 or each of
// its bytes becomes U+FFFD.
std::string DecodeByteRun(std::string_view run);

}  // namespace longspan

#endif  // LONGSPAN_RUNTIME_TOKENIZER_DECODE_H_
