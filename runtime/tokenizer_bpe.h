#ifndef LONGSPAN_RUNTIME_TOKENIZER_BPE_H_
#define LONGSPAN_RUNTIME_TOKENIZER_BPE_H_

#include <array>
#include <cstdint>
#include <limits>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/container/flat_hash_map.h"

namespace longspan {

// Byte-pair encoding over ids (Sennrich et al. 2016, section 3.2). Its characters are bytes, as in
// GPT-2, or Unicode's, as in SentencePiece.
struct BpeModel {
  struct Merge {
    int32_t rank;  // lower merges first
    int32_t id;    // of the merged token
  };
  static uint64_t PairKey(int32_t left, int32_t right) {
    return static_cast<uint64_t>(static_cast<uint32_t>(left)) << 32 | static_cast<uint32_t>(right);
  }

  static std::pair<int32_t, int32_t> PairOf(uint64_t key) {
    return {static_cast<int32_t>(key >> 32), static_cast<int32_t>(key)};
  }

  bool byte_level = false;            // characters are bytes
  std::array<int32_t, 256> byte_ids;  // tokens of these (or of ASCII); -1: there is none
  absl::flat_hash_map<uint32_t, int32_t> character_ids;  // the other characters, by code point
  // With `byte_fallback`, the tokens that spell the bytes of a character that has none.
  std::array<int32_t, 256> fallback_ids;
  int32_t unknown_id = -1;                      // stands for other characters; -1: they are dropped
  bool fuse_unknown = false;                    // once for several in a row
  absl::flat_hash_map<uint64_t, Merge> merges;  // by PairKey
  // With `ignore_merges`, words that are tokens as they are, by their bytes; otherwise empty.
  absl::flat_hash_map<std::string, int32_t> whole_words;
  // Where this follows something else, no merge crosses the place before it, so that what is on
  // either side can be encoded alone. Empty: there is no such character.
  std::string cut_before;
  int64_t longest_token = 1;  // bytes: no token stands for more characters
};

// Encodes words with one model, which it must not outlive, and remembers short parts; one thread.
class BpeEncoder {
 public:
  explicit BpeEncoder(const BpeModel& model, int64_t max_ids = std::numeric_limits<int64_t>::max())
      : model_(model), max_ids_(max_ids) {}

  // Appends the ids of `word` (bytes if the model is of bytes, otherwise well-formed UTF-8);
  // O(n log n). False, as soon as that is certain, if `ids` would have more than `max_ids`; it is
  // of no use then.
  bool Encode(std::string_view word, std::vector<int32_t>& ids);
  int64_t unknown_bytes() const { return unknown_bytes_; }

 private:
  // The tokens of a word are a doubly linked list in an array; -1 ends it.
  struct Symbol {
    int32_t id;  // -1: merged into the symbol before
    int64_t previous;
    int64_t next;
  };
  struct Candidate {
    int32_t rank;
    int32_t id;
    int64_t left;  // the symbol that would take in its next
    // Orders a heap whose top is the lowest rank, then the leftmost.
    bool operator<(const Candidate& other) const {
      return rank != other.rank ? rank > other.rank : left > other.left;
    }
  };
  struct CachedPart {
    int64_t begin;  // in cached_ids_
    int64_t count;
  };

  bool EncodePart(std::string_view part, std::vector<int32_t>& ids);
  bool Merge(std::string_view part, std::vector<int32_t>& ids);
  void AddSymbols(std::string_view part);
  void AddSymbol(int32_t id);
  int32_t FindCharacter(std::string_view character) const;
  bool AddFallback(std::string_view character);
  void MergeOnce(const Candidate& best);
  const BpeModel::Merge* FindMerge(int64_t left) const;
  void PushCandidate(int64_t left);

  bool Fits(const std::vector<int32_t>& ids, int64_t more) const {
    return static_cast<int64_t>(ids.size()) <= max_ids_ - more;
  }

  const BpeModel& model_;
  const int64_t max_ids_;
  std::vector<Symbol> symbols_;
  std::vector<Candidate> heap_;
  absl::flat_hash_map<std::string, CachedPart> cache_;
  std::vector<int32_t> cached_ids_;
  int64_t unknown_bytes_ = 0;
};

}  // namespace longspan

#endif  // LONGSPAN_RUNTIME_TOKENIZER_BPE_H_
