#ifndef LONGSPAN_EVAL_HAYSTACK_H_
#define LONGSPAN_EVAL_HAYSTACK_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "eval/eval_random.h"
#include "runtime/tokenizer.h"

// The text that a prompt's facts hide in. Everything is made of the token ids of whole lines, so
// that lengths are exact whatever the tokenizer merges.
namespace longspan {

// Token ids of text that follows a line break: without the space that tokenizers in the manner of
// SentencePiece put before the first word of a text.
absl::StatusOr<std::vector<int32_t>> EncodeLine(const Tokenizer& tokenizer, absl::string_view text);

// The special tokens that a prompt begins with; most models have one or none.
absl::StatusOr<std::vector<int32_t>> BeginningOfPrompt(const Tokenizer& tokenizer);

// One line of the generated haystack, some sentences and a newline.
std::string GenerateLine(EvalRandom& random);

struct Lines {
  std::vector<int32_t> ids;
  std::vector<int64_t> ends;  // of each line, ascending: an index into ids behind its newline
};

class Haystack {
 public:
  // The paragraphs of a text file, a line each; an empty path is the generated haystack. Errors
  // name the file. The tokenizer must outlive it.
  static absl::StatusOr<Haystack> Load(const std::string& path, const Tokenizer& tokenizer);

  // InvalidArgument: a file with fewer than `tokens`, of which a prompt would repeat a part.
  absl::Status CheckHolds(int64_t tokens) const;

  // Lines of exactly `tokens` ids in all, from a random place on; behind a file's end comes its
  // beginning. The first line may lack its beginning.
  absl::StatusOr<Lines> Take(int64_t tokens, EvalRandom& random) const;

 private:
  explicit Haystack(const Tokenizer& tokenizer) : tokenizer_(&tokenizer) {}

  const Tokenizer* tokenizer_;
  std::string path_;  // empty: generated
  Lines lines_;       // of the file
};

}  // namespace longspan

#endif  // LONGSPAN_EVAL_HAYSTACK_H_
