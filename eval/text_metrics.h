#ifndef LONGSPAN_EVAL_TEXT_METRICS_H_
#define LONGSPAN_EVAL_TEXT_METRICS_H_

#include <string>
#include <vector>

#include "absl/strings/string_view.h"

// How alike an answer and a reference are, from 0 to 1, as LongBench (arXiv 2308.14508) and
// InfiniteBench (arXiv 2402.13718) measure it. Letters are ASCII's where case matters.
namespace longspan {

// Lower case, without punctuation and articles, one space between words: SQuAD's normal form.
std::string NormalizeAnswer(absl::string_view text);

// F1 of the words of the normal forms, as often as they come.
double WordF1(absl::string_view answer, absl::string_view reference);

// F1 of characters, without case, spaces and punctuation: for languages without spaces.
double CharacterF1(absl::string_view answer, absl::string_view reference);

// ROUGE-L of whole summaries as LongBench's package `rouge` has it: over the distinct words of
// sentences that end with a full stop.
double RougeL(absl::string_view answer, absl::string_view reference);

// ROUGE-Lsum as InfiniteBench's package `rouge_score` has it: sentences are lines, words are runs
// of ASCII letters and digits, and each counts as often as it comes.
double RougeLsum(absl::string_view answer, absl::string_view reference);

// 2 L / (a + b) for the length L of the longest common subsequence of bytes. `fuzzywuzzy`, which
// LongBench uses, sums matching blocks in place of it and so can be a little lower.
double Similarity(absl::string_view answer, absl::string_view reference);

// The runs of digits, in order.
std::vector<std::string> DigitRuns(absl::string_view text);

}  // namespace longspan

#endif  // LONGSPAN_EVAL_TEXT_METRICS_H_
