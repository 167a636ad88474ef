#include "eval/haystack.h"

#include <algorithm>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/types/span.h"
#include "eval/words.h"
#include "kernels/base/status_macros.h"
#include "runtime/read_bytes.h"

namespace longspan {
namespace {

constexpr int64_t kMostSentences = 5;  // of a line

// What stands for a word in a sentence: `$p`. A digit is a number of so many digits.
struct WordClass {
  char letter;
  absl::Span<const absl::string_view> words;
};

constexpr WordClass kWordClasses[] = {
    {'a', kAdjectives}, {'c', kWeather}, {'f', kFeelings}, {'g', kGoods},
    {'l', kPlaces},     {'m', kMoves},   {'n', kAnimals},  {'p', kPeople},
    {'t', kThings},     {'v', kVerbs},   {'w', kTimes},
};

constexpr absl::string_view kSentences[] = {
    "$w the $p $v the $g near the $l.",
    "The $a $t stood beside the $l, and the $p $v it.",
    "$w a $n $m from the $l to the $l.",
    "It was $c and $c, so the $p $v the $g at home.",
    "The $p was $f because the $p $v the $a $t.",
    "Nobody at the $l knew why the $n $m over the $l.",
    "There were $2 $g in the $t by the $l.",
    "In $4 the $p $v $3 sacks of $g.",
    "\"Have you $v the $g?\" asked the $f $p.",
    "A $f $n sat under the $t and watched the $p.",
    "The road to the $l is long, and the $l lies $2 miles beyond it.",
    "The $p paid $3 coins for the $a $t and some $g.",
    "$w it grew $c, and the $p felt $f.",
    "The grass is green. The sky is blue. The sun is yellow. Here we go. There and back again.",
};

void AppendWord(char letter, EvalRandom& random, std::string* line) {
  if (absl::ascii_isdigit(static_cast<unsigned char>(letter))) {
    int64_t least = 1;
    for (char digits = '1'; digits < letter; ++digits) least *= 10;
    absl::StrAppend(line, least + random.Below(9 * least));
    return;
  }
  for (const WordClass& word_class : kWordClasses) {
    if (word_class.letter == letter) absl::StrAppend(line, random.Choice(word_class.words));
  }
}

void Append(const std::vector<int32_t>& line, Lines* lines) {
  lines->ids.insert(lines->ids.end(), line.begin(), line.end());
  lines->ends.push_back(static_cast<int64_t>(lines->ids.size()));
}

// Takes away the first `count` ids.
void CutBeginning(int64_t count, Lines* lines) {
  lines->ids.erase(lines->ids.begin(), lines->ids.begin() + count);
  const auto kept = std::upper_bound(lines->ends.begin(), lines->ends.end(), count);
  lines->ends.erase(lines->ends.begin(), kept);
  for (int64_t& end : lines->ends) end -= count;
}

}  // namespace

absl::StatusOr<std::vector<int32_t>> EncodeLine(const Tokenizer& tokenizer,
                                                absl::string_view text) {
  constexpr bool kNoSpecialTokens = false;
  LONGSPAN_ASSIGN_OR_RETURN(const std::vector<int32_t> line_break,
                            tokenizer.Encode("\n", kNoSpecialTokens));
  LONGSPAN_ASSIGN_OR_RETURN(std::vector<int32_t> ids,
                            tokenizer.Encode(absl::StrCat("\n", text), kNoSpecialTokens));
  if (ids.size() >= line_break.size() &&
      std::equal(line_break.begin(), line_break.end(), ids.begin())) {
    ids.erase(ids.begin(), ids.begin() + static_cast<int64_t>(line_break.size()));
    return ids;
  }
  // The break is a part of the first token: this text begins with one, too.
  return tokenizer.Encode(std::string_view(text.data(), text.size()), kNoSpecialTokens);
}

absl::StatusOr<std::vector<int32_t>> BeginningOfPrompt(const Tokenizer& tokenizer) {
  LONGSPAN_ASSIGN_OR_RETURN(std::vector<int32_t> ids,
                            tokenizer.Encode("a", /*add_special_tokens=*/true));
  const auto text =
      std::find_if(ids.begin(), ids.end(), [&](int32_t id) { return !tokenizer.IsSpecial(id); });
  ids.erase(text, ids.end());
  return ids;
}

std::string GenerateLine(EvalRandom& random) {
  std::string line;
  for (int64_t sentences = 1 + random.Below(kMostSentences); sentences > 0; --sentences) {
    const absl::string_view sentence = random.Choice(kSentences);
    for (size_t i = 0; i < sentence.size(); ++i) {
      if (sentence[i] == '$') {
        AppendWord(sentence[++i], random, &line);
      } else {
        line += sentence[i];
      }
    }
    line += sentences == 1 ? '\n' : ' ';
  }
  return line;
}

absl::StatusOr<Haystack> Haystack::Load(const std::string& path, const Tokenizer& tokenizer) {
  Haystack haystack(tokenizer);
  haystack.path_ = path;
  if (path.empty()) return haystack;
  std::string text;
  LONGSPAN_RETURN_IF_ERROR(ReadBytes(path, 0, -1, &text));
  for (absl::string_view line : absl::StrSplit(text, '\n')) {
    line = absl::StripAsciiWhitespace(line);
    if (line.empty()) continue;
    LONGSPAN_ASSIGN_OR_RETURN(const std::vector<int32_t> ids,
                              EncodeLine(tokenizer, absl::StrCat(line, "\n")));
    Append(ids, &haystack.lines_);
  }
  return haystack;
}

absl::Status Haystack::CheckHolds(int64_t tokens) const {
  const auto there = static_cast<int64_t>(lines_.ids.size());
  if (path_.empty() || there >= tokens) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat(
      "--haystack ", path_, " is too short: it has ", there, " tokens, and the longest prompt has ",
      tokens, "; use a longer text, or leave --haystack out for a generated one"));
}

absl::StatusOr<Lines> Haystack::Take(int64_t tokens, EvalRandom& random) const {
  Lines taken;
  const auto count = static_cast<int64_t>(lines_.ends.size());
  int64_t next = path_.empty() ? 0 : random.Below(count);
  while (static_cast<int64_t>(taken.ids.size()) < tokens) {
    if (path_.empty()) {
      LONGSPAN_ASSIGN_OR_RETURN(const std::vector<int32_t> line,
                                EncodeLine(*tokenizer_, GenerateLine(random)));
      Append(line, &taken);
      continue;
    }
    const auto begin = lines_.ids.begin() + (next == 0 ? 0 : lines_.ends[next - 1]);
    Append({begin, lines_.ids.begin() + lines_.ends[next]}, &taken);
    next = (next + 1) % count;
  }
  CutBeginning(static_cast<int64_t>(taken.ids.size()) - tokens, &taken);
  return taken;
}

}  // namespace longspan
