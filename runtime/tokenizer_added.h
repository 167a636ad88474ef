#ifndef LONGSPAN_RUNTIME_TOKENIZER_ADDED_H_
#define LONGSPAN_RUNTIME_TOKENIZER_ADDED_H_

#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "runtime/tokenizer_normalize.h"
#include "runtime/tokenizer_regex.h"

namespace longspan {

// One entry of `added_tokens`.
struct AddedToken {
  int32_t id = 0;
  std::string content;
  std::string pattern;       // what is looked for: `content`, normalized where `normalized`
  bool special = false;      // left out by Decode's skip_special_tokens
  bool normalized = false;   // looked for after the others, in what they leave, normalized
  bool single_word = false;  // only between characters that are not of words
  bool lstrip = false;       // takes in the white space before it
  bool rstrip = false;       // takes in the white space after it
};

// A part of a text: an added token (id >= 0), or what lies between them (id -1).
struct AddedSpan {
  std::string_view text;  // normalized if it is no added token
  int32_t id;
  bool begins_text;  // nothing is before it
};

// Finds added tokens in texts: leftmost, of these the longest. Immutable.
class AddedTokenMatcher {
 public:
  static absl::StatusOr<AddedTokenMatcher> Create(std::vector<AddedToken> tokens);

  // Cuts `text` (well-formed UTF-8) into spans, in order, and normalizes what lies between the
  // tokens that are not `normalized`, each part on its own. A span lives until `visit` returns.
  using Visit = absl::FunctionRef<absl::Status(AddedSpan)>;
  absl::Status Split(std::string_view text, NormalizerRun& normalizer, Visit visit) const;

 private:
  // A trie of bytes. Node 0 is the root.
  struct Trie {
    std::vector<int32_t> token{-1};                // [nodes] index in tokens_ that ends there
    absl::flat_hash_map<uint64_t, int32_t> child;  // by node << 8 | byte
    bool starts[256] = {};                         // bytes that leave the root
    void Insert(std::string_view content, int32_t index);
    // Index of the longest token at the beginning of `text`, -1 if there is none.
    int32_t Longest(std::string_view text) const;
  };

  explicit AddedTokenMatcher(Regex word) : word_character_(std::move(word)) {}
  absl::Status SplitBy(const Trie& trie, std::string_view text, Visit visit) const;

  std::vector<AddedToken> tokens_;
  Trie first_;   // of tokens that are not `normalized`
  Trie second_;  // of those that are
  Regex word_character_;
};

}  // namespace longspan

#endif  // LONGSPAN_RUNTIME_TOKENIZER_ADDED_H_
