#include "eval/rouge.h"

#include <algorithm>
#include <map>
#include <set>
#include <string>
#include <vector>

#include "absl/strings/ascii.h"
#include "absl/strings/str_split.h"
#include "eval/text_metrics.h"

namespace longspan {
namespace {

using Words = std::vector<std::string>;

// Where two ways back through the table are equally long, the one that gives up a word of the
// reference (rouge_score) or of the answer (rouge).
enum class Tie { kReference, kAnswer };

// [a + 1][b + 1] lengths of the longest common subsequences of beginnings.
std::vector<std::vector<int>> LcsTable(const Words& a, const Words& b) {
  std::vector<std::vector<int>> table(a.size() + 1, std::vector<int>(b.size() + 1));
  for (size_t i = 1; i <= a.size(); ++i) {
    for (size_t j = 1; j <= b.size(); ++j) {
      table[i][j] = a[i - 1] == b[j - 1] ? table[i - 1][j - 1] + 1
                                         : std::max(table[i - 1][j], table[i][j - 1]);
    }
  }
  return table;
}

// Places in the reference of one longest common subsequence.
std::vector<size_t> LcsPlaces(const Words& reference, const Words& answer, Tie tie) {
  const std::vector<std::vector<int>> table = LcsTable(reference, answer);
  std::vector<size_t> places;
  for (size_t i = reference.size(), j = answer.size(); i > 0 && j > 0;) {
    const int lead = table[i - 1][j] - table[i][j - 1];
    if (reference[i - 1] == answer[j - 1]) {
      places.push_back(i - 1);
      --i, --j;
    } else if (lead > 0 || (lead == 0 && tie == Tie::kReference)) {
      --i;
    } else {
      --j;
    }
  }
  return places;
}

// Parts between full stops as words; a part of spaces alone is one empty word, as in the package.
std::vector<Words> StopSentences(absl::string_view text) {
  std::vector<Words> sentences;
  for (const absl::string_view part : absl::StrSplit(text, '.', absl::SkipEmpty())) {
    Words words = absl::StrSplit(part, absl::ByAnyChar(" \t\r\n\f\v"), absl::SkipEmpty());
    if (words.empty()) words.emplace_back();
    sentences.push_back(std::move(words));
  }
  return sentences;
}

std::vector<Words> LineSentences(absl::string_view text) {
  std::vector<Words> sentences;
  for (const absl::string_view line : absl::StrSplit(text, '\n', absl::SkipEmpty())) {
    std::string letters = absl::AsciiStrToLower(line);
    for (char& c : letters) {
      if (!absl::ascii_isalnum(static_cast<unsigned char>(c))) c = ' ';
    }
    sentences.push_back(absl::StrSplit(letters, ' ', absl::SkipEmpty()));
  }
  return sentences;
}

std::set<std::string> DistinctWords(const std::vector<Words>& sentences) {
  std::set<std::string> distinct;
  for (const Words& words : sentences) distinct.insert(words.begin(), words.end());
  return distinct;
}

std::map<std::string, int> WordCounts(const std::vector<Words>& sentences) {
  std::map<std::string, int> counts;
  for (const Words& words : sentences) {
    for (const std::string& word : words) ++counts[word];
  }
  return counts;
}

size_t TotalWords(const std::vector<Words>& sentences) {
  size_t total = 0;
  for (const Words& words : sentences) total += words.size();
  return total;
}

}  // namespace

double RougeL(absl::string_view answer, absl::string_view reference) {
  const std::vector<Words> answers = StopSentences(answer), references = StopSentences(reference);
  std::set<std::string> common;
  for (const Words& wanted : references) {
    for (const Words& given : answers) {
      for (const size_t place : LcsPlaces(wanted, given, Tie::kAnswer)) {
        common.insert(wanted[place]);
      }
    }
  }
  return F1(static_cast<double>(common.size()), DistinctWords(answers).size(),
            DistinctWords(references).size());
}

double RougeLsum(absl::string_view answer, absl::string_view reference) {
  const std::vector<Words> answers = LineSentences(answer), references = LineSentences(reference);
  std::map<std::string, int> left = WordCounts(answers), wanted_left = WordCounts(references);
  double hits = 0;
  for (const Words& wanted : references) {
    std::set<size_t> places;
    for (const Words& given : answers) {
      for (const size_t place : LcsPlaces(wanted, given, Tie::kReference)) places.insert(place);
    }
    for (const size_t place : places) {
      const std::string& word = wanted[place];
      if (left[word] == 0 || wanted_left[word] == 0) continue;
      ++hits, --left[word], --wanted_left[word];
    }
  }
  return F1(hits, TotalWords(answers), TotalWords(references));
}

}  // namespace longspan
