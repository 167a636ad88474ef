#ifndef LONGSPAN_EVAL_SCORERS_H_
#define LONGSPAN_EVAL_SCORERS_H_

#include "absl/strings/string_view.h"
#include "eval/eval_case.h"

// What an answer to a generated task is worth; each is a Scorer.
namespace longspan {

// The share of the expected answers that the answer has as whole words, in any case and order, as
// RULER counts (arXiv 2404.06654, string_match_all) but for words within words.
double ShareFound(absl::string_view answer, const EvalCase& expected);

// Whether `text` has `word` with no letter or digit beside it. ASCII letters match in any case.
bool HasWord(absl::string_view text, absl::string_view word);

}  // namespace longspan

#endif  // LONGSPAN_EVAL_SCORERS_H_
