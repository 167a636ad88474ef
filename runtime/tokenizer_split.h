#ifndef LONGSPAN_RUNTIME_TOKENIZER_SPLIT_H_
#define LONGSPAN_RUNTIME_TOKENIZER_SPLIT_H_

#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "runtime/tokenizer_regex.h"

namespace longspan {

// What becomes of the matches of a pattern (the library's SplitDelimiterBehavior).
enum class SplitBehavior {
  kRemoved,
  kIsolated,
  kMergedWithPrevious,
  kMergedWithNext,
  kContiguous,
};

// Cuts a piece at the matches of `regex`; with `invert` at what lies between them.
struct SplitStage {
  Regex regex;
  SplitBehavior behavior = SplitBehavior::kIsolated;
  bool invert = false;
};

// Puts a space before a piece that does not begin with one.
struct PrefixSpaceStage {};

// SentencePiece's spelling of spaces: `replacement` for each, and before a piece that does not
// begin with one.
struct MetaspaceStage {
  enum class Prepend { kNever, kFirst, kAlways };  // kFirst: only where the text begins
  std::string replacement;
  Prepend prepend = Prepend::kAlways;
  bool split = true;  // cuts before each replacement
};

// Pre-tokenization: each stage cuts or rewrites the pieces that the one before left.
using PreTokenizerStage = std::variant<SplitStage, PrefixSpaceStage, MetaspaceStage>;

// Memory to run the stages, which it must not outlive; for one thread.
class PreTokenizerRun {
 public:
  explicit PreTokenizerRun(const std::vector<PreTokenizerStage>& stages);

  // Passes the words of `text` to `emit`, in order, until it returns an error. A word lives only
  // until `emit` returns. `begins_text`: nothing is before `text` in what is being encoded.
  using Emit = absl::FunctionRef<absl::Status(std::string_view word)>;
  absl::Status Split(std::string_view text, bool begins_text, Emit emit);

 private:
  struct Piece {
    std::string_view text;
    bool begins_text;
    Piece Part(size_t begin, size_t end) const {
      return {text.substr(begin, end - begin), begins_text && begin == 0};
    }
  };
  struct SplitRun {
    RegexMatcher matcher;
    SplitBehavior behavior;
    bool invert;
  };
  struct PrefixSpaceRun {
    std::string piece;
  };
  struct MetaspaceRun {
    MetaspaceStage options;
    std::string piece;
  };
  using StageRun = std::variant<SplitRun, PrefixSpaceRun, MetaspaceRun>;

  absl::Status RunFrom(size_t stage, Piece piece, Emit emit);
  absl::Status RunSplit(size_t stage, Piece piece, Emit emit);
  absl::Status RunMetaspace(size_t stage, Piece piece, Emit emit);

  std::vector<StageRun> stages_;
};

}  // namespace longspan

#endif  // LONGSPAN_RUNTIME_TOKENIZER_SPLIT_H_
