#ifndef LONGSPAN_EVAL_TEXT_METRICS_H_
#define LONGSPAN_EVAL_TEXT_METRICS_H_

#include <cstddef>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"

// How alike an answer and a reference are, from 0 to 1, as LongBench (arXiv 2308.14508) and
// InfiniteBench (arXiv 2402.13718) measure it.
namespace longspan {

// UTF-8, character by character (Unicode's simple mappings); what is ill-formed stays.
std::string LowerCase(absl::string_view text);
std::string UpperCase(absl::string_view text);

// The harmonic mean of the shares that `common` things are of the answer's and of the reference's;
// 0 if there are none.
double F1(double common, size_t of_answer, size_t of_reference);

// Lower case, without punctuation and articles, one space between words: SQuAD's normal form.
std::string NormalizeAnswer(absl::string_view text);

// F1 of the words of the normal forms, as often as they come.
double WordF1(absl::string_view answer, absl::string_view reference);

// F1 of characters, without case, spaces and the punctuation that the benchmarks list: for
// languages without spaces.
double CharacterF1(absl::string_view answer, absl::string_view reference);

// `fuzz.ratio` of `fuzzywuzzy` as a share, which is whole percents: 2 M / (a + b) for the
// characters M of the matching blocks of Ratcliff and Obershelp, as Python's difflib finds them. In
// references of 200 characters and more, those that make up over 1% begin no match.
double Similarity(absl::string_view answer, absl::string_view reference);

// The runs of digits, in order.
std::vector<std::string> DigitRuns(absl::string_view text);

}  // namespace longspan

#endif  // LONGSPAN_EVAL_TEXT_METRICS_H_
