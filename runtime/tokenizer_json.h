#ifndef LONGSPAN_RUNTIME_TOKENIZER_JSON_H_
#define LONGSPAN_RUNTIME_TOKENIZER_JSON_H_

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "runtime/tokenizer_added.h"
#include "runtime/tokenizer_bpe.h"
#include "runtime/tokenizer_decode.h"
#include "runtime/tokenizer_normalize.h"
#include "runtime/tokenizer_split.h"

namespace longspan {

struct VocabularyEntry {
  std::string text;        // as tokenizer.json spells it
  std::string normalized;  // of an added token that the normalizer changes; otherwise empty
  std::string bytes;       // what it stands for, but at the beginning of a text
  bool is_byte = false;    // one byte of a run that is decoded as a whole
  bool special = false;
  bool skipped = false;  // by Decode's skip_special_tokens
  // What the decoder reads.
  const std::string& spelling() const { return normalized.empty() ? text : normalized; }
};

// A tokenizer.json, checked and ready for use.
struct TokenizerParts {
  std::vector<VocabularyEntry> tokens;            // by id, without gaps
  absl::flat_hash_map<std::string, int32_t> ids;  // by VocabularyEntry::text
  std::optional<AddedTokenMatcher> added;         // set once parsed
  std::vector<NormalizerStep> normalizer;
  std::vector<PreTokenizerStage> pre_tokenizer;
  BpeModel bpe;
  TokenDecoder decoder;
  std::vector<int32_t> prefix;  // special tokens that the post-processor puts before a text
  std::vector<int32_t> suffix;  // and after it
  std::optional<int32_t> bos_id;
  std::optional<int32_t> eos_id;
};

// One table for each kind of component lists what is supported; anything else is Unimplemented and
// named. InvalidArgument names the key at fault of a malformed or inconsistent file.
absl::StatusOr<std::unique_ptr<TokenizerParts>> ParseTokenizerJson(std::string_view tokenizer_json);

// bos_token and eos_token of a tokenizer_config.json.
absl::Status ReadTokenizerConfig(std::string_view config_json, TokenizerParts& parts);

}  // namespace longspan

#endif  // LONGSPAN_RUNTIME_TOKENIZER_JSON_H_
