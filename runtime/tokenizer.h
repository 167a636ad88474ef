#ifndef LONGSPAN_RUNTIME_TOKENIZER_H_
#define LONGSPAN_RUNTIME_TOKENIZER_H_

#include <cstdint>
#include <limits>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"

namespace longspan {

struct TokenizerParts;

// What an encoding had to change in the text; callers warn when a count is not 0.
struct EncodeNotes {
  int64_t replaced = 0;       // ill-formed UTF-8 sequences that became U+FFFD
  int64_t unknown_bytes = 0;  // for which the vocabulary has no token: dropped, or `unk_token`
};

// A Hugging Face `tokenizer.json` of model type BPE, over bytes (GPT-2, Llama 3, Qwen) or in the
// manner of SentencePiece (Llama 2, Mistral); ids and decoded text equal those of the `tokenizers`
// library. What is not supported is refused by name when loading. Immutable and safe to share
// between threads.
//
// Reading order: tokenizer_json (the file's parts), tokenizer_added (added tokens cut the text),
// tokenizer_normalize, tokenizer_split (pre-tokenization), tokenizer_bpe (merges), then this file's
// Encode; tokenizer_decode and StreamDecoder.
class Tokenizer {
 public:
  // Reads model_dir/tokenizer.json and, for bos_id and eos_id, model_dir/tokenizer_config.json
  // where there is one. `truncation` and `padding` of the file are ignored: a prompt is never cut
  // silently.
  static absl::StatusOr<std::unique_ptr<Tokenizer>> Load(const std::string& model_dir);
  // The same from the contents of the files; an empty `config_json` stands for no such file.
  static absl::StatusOr<std::unique_ptr<Tokenizer>> Parse(std::string_view tokenizer_json,
                                                          std::string_view config_json = {});
  ~Tokenizer();

  // Ids of `text`; added tokens that it spells out (`<|eot_id|>`) become their ids, as in the
  // library. Ill-formed UTF-8 is replaced by U+FFFD, one for each maximal subpart (Unicode 3.9),
  // like Python's errors="replace". O(bytes) but for the logarithm of the longest word.
  // ResourceExhausted: a pre-tokenizer's pattern exceeds the matching limit on this text.
  // OutOfRange, as soon as that is certain: there are more than `max_tokens`.
  absl::StatusOr<std::vector<int32_t>> Encode(
      std::string_view text, bool add_special_tokens, EncodeNotes* notes = nullptr,
      int64_t max_tokens = std::numeric_limits<int64_t>::max()) const;

  // Always well-formed UTF-8: U+FFFD stands for bytes that are not. Unknown ids decode to nothing.
  std::string Decode(absl::Span<const int32_t> ids, bool skip_special_tokens) const;

  // Ids are 0 ... vocab_size() - 1, added tokens included.
  int64_t vocab_size() const;
  std::optional<int32_t> TokenToId(std::string_view token) const;  // spelt as in tokenizer.json
  std::optional<int32_t> bos_id() const;
  std::optional<int32_t> eos_id() const;
  bool IsSpecial(int32_t id) const;
  // The bytes that the token stands for: possibly a part of a character; empty for unknown ids.
  std::string_view IdToBytes(int32_t id) const;
  // For people and for JSON: the bytes where they are text, otherwise `bytes:\xe2\x80`.
  std::string IdToPiece(int32_t id) const;

 private:
  friend class StreamDecoder;
  explicit Tokenizer(std::unique_ptr<const TokenizerParts> parts);
  std::unique_ptr<const TokenizerParts> parts_;
};

// Decode, one token at a time: the concatenation of everything returned equals
// Decode(all ids, skip_special_tokens). The tokenizer must outlive it.
class StreamDecoder {
 public:
  StreamDecoder(const Tokenizer& tokenizer, bool skip_special_tokens)
      : tokenizer_(&tokenizer), skip_special_tokens_(skip_special_tokens) {}

  // The text that `id` completes: empty while a character still lacks bytes. A run of tokens for
  // bytes (<0x0A>) stays open until another token follows, because the library decodes it as a
  // whole.
  std::string Push(int32_t id);
  // The end of the stream: U+FFFD where a character was left incomplete.
  std::string Flush();

 private:
  // `text` without the characters that the decoder strips from the beginning of the whole.
  std::string Strip(std::string text);

  const Tokenizer* tokenizer_;
  bool skip_special_tokens_;
  bool is_first_ = true;  // no token has come yet
  bool strips_ = true;    // what came so far was stripped
  int64_t stripped_ = 0;  // characters
  std::string pending_;   // the beginning of a character, or a run of byte tokens
};

}  // namespace longspan

#endif  // LONGSPAN_RUNTIME_TOKENIZER_H_
