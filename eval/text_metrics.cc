#include "eval/text_metrics.h"

#include <utf8proc.h>

#include <algorithm>
#include <cmath>
#include <iterator>
#include <map>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"

namespace longspan {
namespace {

using Words = std::vector<std::string>;

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

// What the benchmarks leave out of texts in Chinese, beside ASCII's, and the spaces of Unicode. An
// opening double angle bracket is not among the former.
constexpr absl::string_view kWidePunctuation =
    "！？｡。＂＃＄％＆＇（）＊＋，－／：；＜＝＞＠［＼］＾＿｀｛｜｝～｟｠｢｣､"
    "、〃》「」『』【】〔〕〖〗〘〙〚〛〜〝〞〟〰〾〿–—‘’‛“”„‟…‧﹏";
constexpr absl::string_view kWideSpaces =
    "\u0085\u00a0\u1680\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009\u200a\u2028"
    "\u2029"
    "\u202f\u205f\u3000";

// Of UTF-8.
Words CharactersOf(absl::string_view text) {
  Words characters;
  for (const char c : text) {
    if ((static_cast<unsigned char>(c) & 0xC0) == 0x80 && !characters.empty()) {
      characters.back() += c;
    } else {
      characters.emplace_back(1, c);
    }
  }
  return characters;
}

bool IsSpace(absl::string_view character) {
  if (character.size() > 1) return absl::StrContains(kWideSpaces, character);
  return absl::ascii_isspace(static_cast<unsigned char>(character[0])) ||
         (character[0] >= '\x1c' && character[0] <= '\x1f');
}

bool IsLeftOut(absl::string_view character) {
  if (IsSpace(character)) return true;
  return character.size() == 1 ? IsPunctuation(character[0])
                               : absl::StrContains(kWidePunctuation, character);
}

// Characters one by one by `map`; what is ill-formed stays.
std::string Mapped(absl::string_view text, utf8proc_int32_t (*map)(utf8proc_int32_t)) {
  std::string mapped;
  while (!text.empty()) {
    utf8proc_int32_t character = -1;
    const utf8proc_ssize_t read =
        utf8proc_iterate(reinterpret_cast<const utf8proc_uint8_t*>(text.data()),
                         static_cast<utf8proc_ssize_t>(text.size()), &character);
    utf8proc_uint8_t bytes[4];
    if (read > 0) {
      const utf8proc_ssize_t written = utf8proc_encode_char(map(character), bytes);
      mapped.append(reinterpret_cast<const char*>(bytes), written);
    } else {
      mapped += text[0];
    }
    text.remove_prefix(std::max<utf8proc_ssize_t>(read, 1));
  }
  return mapped;
}

// In lower case, without spaces and punctuation.
Words PlainCharacters(absl::string_view text) {
  Words characters = CharactersOf(LowerCase(text));
  characters.erase(std::remove_if(characters.begin(), characters.end(), IsLeftOut),
                   characters.end());
  return characters;
}

// Of difflib's SequenceMatcher: blocks that match, found from the longest one on.
class BlockMatcher {
 public:
  BlockMatcher(const Words& a, const Words& b) : a_(a), b_(b) {
    for (size_t j = 0; j < b.size(); ++j) places_[b[j]].push_back(j);
    if (b.size() < kManyCharacters) return;
    const size_t most = b.size() / 100 + 1;
    for (auto place = places_.begin(); place != places_.end();) {
      place = place->second.size() > most ? places_.erase(place) : std::next(place);
    }
  }

  // Characters of all blocks within these parts of `a` and `b`.
  size_t Matching(size_t a_begin, size_t a_end, size_t b_begin, size_t b_end) const {
    const Block longest = Longest(a_begin, a_end, b_begin, b_end);
    if (longest.size == 0) return 0;
    return longest.size + Matching(a_begin, longest.a, b_begin, longest.b) +
           Matching(longest.a + longest.size, a_end, longest.b + longest.size, b_end);
  }

 private:
  static constexpr size_t kManyCharacters = 200;
  struct Block {
    size_t a, b, size;
  };

  Block Longest(size_t a_begin, size_t a_end, size_t b_begin, size_t b_end) const {
    Block best = {a_begin, b_begin, 0};
    std::map<size_t, size_t> lengths;  // by place in `b`: of the match that ends there
    for (size_t i = a_begin; i < a_end; ++i) {
      std::map<size_t, size_t> next;
      const auto places = places_.find(a_[i]);
      const size_t count = places == places_.end() ? 0 : places->second.size();
      for (size_t p = 0; p < count; ++p) {
        const size_t j = places->second[p];
        if (j < b_begin || j >= b_end) continue;
        const auto before = j == 0 ? lengths.end() : lengths.find(j - 1);
        const size_t size = next[j] = 1 + (before == lengths.end() ? 0 : before->second);
        if (size > best.size) best = {i + 1 - size, j + 1 - size, size};
      }
      lengths = std::move(next);
    }
    // By characters that begin no match.
    while (best.a > a_begin && best.b > b_begin && a_[best.a - 1] == b_[best.b - 1]) {
      --best.a, --best.b, ++best.size;
    }
    while (best.a + best.size < a_end && best.b + best.size < b_end &&
           a_[best.a + best.size] == b_[best.b + best.size]) {
      ++best.size;
    }
    return best;
  }

  const Words &a_, &b_;
  std::map<std::string, std::vector<size_t>> places_;  // in `b`, ascending
};

}  // namespace

std::string LowerCase(absl::string_view text) { return Mapped(text, utf8proc_tolower); }

std::string UpperCase(absl::string_view text) { return Mapped(text, utf8proc_toupper); }

double F1(double common, size_t of_answer, size_t of_reference) {
  if (common == 0) return 0;
  const double precision = common / static_cast<double>(of_answer);
  const double recall = common / static_cast<double>(of_reference);
  return 2 * precision * recall / (precision + recall);
}

std::string NormalizeAnswer(absl::string_view text) {
  std::string kept;
  for (const std::string& character : CharactersOf(LowerCase(text))) {
    if (IsSpace(character)) {
      kept += ' ';
    } else if (character.size() > 1 || !IsPunctuation(character[0])) {
      kept += character;
    }
  }
  Words words = absl::StrSplit(kept, ' ', absl::SkipEmpty());
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
  return BagF1(PlainCharacters(answer), PlainCharacters(reference));
}

double Similarity(absl::string_view answer, absl::string_view reference) {
  if (answer == reference) return 1;
  const Words a = CharactersOf(answer), b = CharactersOf(reference);
  if (a.empty() || b.empty()) return 0;
  const auto matching = static_cast<double>(BlockMatcher(a, b).Matching(0, a.size(), 0, b.size()));
  const double percent = 100 * (2 * matching / static_cast<double>(a.size() + b.size()));
  return std::nearbyint(percent) / 100;
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
