#ifndef LONGSPAN_EVAL_ROUGE_H_
#define LONGSPAN_EVAL_ROUGE_H_

#include "absl/strings/string_view.h"

// ROUGE-L of whole summaries (Lin 2004), from 0 to 1, as two Python packages have it. They differ
// in what a sentence and a word is, in how often a word counts, and in which of several longest
// common subsequences they take.
namespace longspan {

// As `rouge` has it, which LongBench uses: over the distinct words of sentences that end with a
// full stop.
double RougeL(absl::string_view answer, absl::string_view reference);

// ROUGE-Lsum as `rouge_score` has it, which InfiniteBench uses: sentences are lines, words are runs
// of ASCII letters and digits, and each counts as often as it comes.
double RougeLsum(absl::string_view answer, absl::string_view reference);

}  // namespace longspan

#endif  // LONGSPAN_EVAL_ROUGE_H_
