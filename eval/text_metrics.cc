#include "eval/text_metrics.h"

#include <algorithm>
#include <map>
#include <set>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "absl/types/span.h"

namespace longspan {
namespace {

using Words = std::vector<std::string>;

double F1(double common, size_t of_answer, size_t of_reference) {
  if (common == 0) return 0;
  const double precision = common / static_cast<double>(of_answer);
  const double recall = common / static_cast<double>(of_reference);
  return 2 * precision * recall / (precision + recall);
}

double BagF1(const Words& answer, const Words& reference) {
  std::map<absl::string_view, int> left;
  for (const std::string& word : reference) ++left[word];
  double common = 0;
  for (const std::string& word : answer) {
    if (left[word]-- > 0) ++common;
  }
  return F1(common, answer.size(), reference.size());
}

bool IsPunctuation(char c) { return absl::ascii_ispunct(static_cast<unsigned char>(c)); }

// Punctuation of Chinese texts: U+2000 to U+203F, U+3000 to U+303F, and full-width ASCII's.
bool IsWidePunctuation(absl::string_view character) {
  if (absl::StartsWith(character, "\xE2\x80") || absl::StartsWith(character, "\xE3\x80")) {
    return true;
  }
  const bool is_first = absl::StartsWith(character, "\xEF\xBC");  // U+FF00 on
  if (character.size() != 3 || (!is_first && !absl::StartsWith(character, "\xEF\xBD"))) {
    return false;
  }
  const int place = static_cast<unsigned char>(character[2]) - 0x80 + (is_first ? 0 : 0x40);
  return place < 0x5f && IsPunctuation(static_cast<char>(place + 0x20));
}

// UTF-8 characters, without spaces and punctuation.
Words Characters(absl::string_view text) {
  Words characters;
  for (const char c : absl::AsciiStrToLower(text)) {
    const auto byte = static_cast<unsigned char>(c);
    if ((byte & 0xC0) == 0x80 && !characters.empty()) {
      characters.back() += c;
    } else if (!absl::ascii_isspace(byte) && !IsPunctuation(c)) {
      characters.emplace_back(1, c);
    }
  }
  characters.erase(std::remove_if(characters.begin(), characters.end(), IsWidePunctuation),
                   characters.end());
  return characters;
}

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

// Places in `a` of one longest common subsequence; which one both packages agree on.
std::vector<size_t> LcsPlaces(const Words& a, const Words& b) {
  const std::vector<std::vector<int>> table = LcsTable(a, b);
  std::vector<size_t> places;
  for (size_t i = a.size(), j = b.size(); i > 0 && j > 0;) {
    if (a[i - 1] == b[j - 1]) {
      places.push_back(i - 1);
      --i, --j;
    } else if (table[i - 1][j] > table[i][j - 1]) {
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

std::string NormalizeAnswer(absl::string_view text) {
  std::string kept;
  for (const char c : absl::AsciiStrToLower(text)) {
    if (!IsPunctuation(c)) kept += c;
  }
  Words words = absl::StrSplit(kept, absl::ByAnyChar(" \t\r\n\f\v"), absl::SkipEmpty());
  words.erase(std::remove_if(words.begin(), words.end(),
                             [](const std::string& word) {
                               return word == "a" || word == "an" || word == "the";
                             }),
              words.end());
  return absl::StrJoin(words, " ");
}

double WordF1(absl::string_view answer, absl::string_view reference) {
  return BagF1(absl::StrSplit(NormalizeAnswer(answer), ' ', absl::SkipEmpty()),
               absl::StrSplit(NormalizeAnswer(reference), ' ', absl::SkipEmpty()));
}

double CharacterF1(absl::string_view answer, absl::string_view reference) {
  return BagF1(Characters(answer), Characters(reference));
}

double RougeL(absl::string_view answer, absl::string_view reference) {
  const std::vector<Words> answers = StopSentences(answer), references = StopSentences(reference);
  std::set<std::string> common;
  for (const Words& wanted : references) {
    for (const Words& given : answers) {
      for (const size_t place : LcsPlaces(wanted, given)) common.insert(wanted[place]);
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
      for (const size_t place : LcsPlaces(wanted, given)) places.insert(place);
    }
    for (const size_t place : places) {
      const std::string& word = wanted[place];
      if (left[word] == 0 || wanted_left[word] == 0) continue;
      ++hits, --left[word], --wanted_left[word];
    }
  }
  return F1(hits, TotalWords(answers), TotalWords(references));
}

double Similarity(absl::string_view answer, absl::string_view reference) {
  if (answer.empty() && reference.empty()) return 1;
  std::vector<int> row(reference.size() + 1);  // of the table of subsequences
  for (const char c : answer) {
    int diagonal = 0;
    for (size_t j = 1; j < row.size(); ++j) {
      const int above = row[j];
      row[j] = c == reference[j - 1] ? diagonal + 1 : std::max(above, row[j - 1]);
      diagonal = above;
    }
  }
  return 2.0 * row.back() / static_cast<double>(answer.size() + reference.size());
}

std::vector<std::string> DigitRuns(absl::string_view text) {
  std::vector<std::string> runs;
  bool is_inside = false;
  for (const char c : text) {
    const bool is_digit = absl::ascii_isdigit(static_cast<unsigned char>(c));
    if (is_digit && !is_inside) runs.emplace_back();
    if (is_digit) runs.back() += c;
    is_inside = is_digit;
  }
  return runs;
}

}  // namespace longspan
