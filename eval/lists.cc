#include "eval/lists.h"

#include <algorithm>
#include <cmath>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "eval/haystack.h"
#include "eval/words.h"
#include "kernels/base/status_macros.h"

namespace longspan {
namespace {

constexpr double kBehindFiller = 1;  // depth of a list: the filler before it only makes the length
constexpr int64_t kBraceTokens = 8;  // at most, of both, and of what the last comma is worth
constexpr int64_t kCommon = 30, kUncommon = 3;  // times that a word comes

absl::StatusOr<int64_t> CountTokens(const PromptMaterial& material, const std::string& line) {
  LONGSPAN_ASSIGN_OR_RETURN(const std::vector<int32_t> ids, EncodeLine(material.tokenizer, line));
  return static_cast<int64_t>(ids.size());
}

// Tokens that a prompt with this question has for its document.
absl::StatusOr<int64_t> RoomOf(const PromptMaterial& material, const DraftShape& shape,
                               const std::string& question) {
  LONGSPAN_ASSIGN_OR_RETURN(const PromptFrame frame, MakePromptFrame(material, question));
  return shape.length - frame.tokens();
}

std::string Uuid(EvalRandom& random) {
  const uint64_t high = random.Next(), low = random.Next();
  return absl::StrFormat("%08x-%04x-4%03x-%04x-%012x", high >> 32, high >> 16 & 0xffff,
                         high & 0xfff, 0x8000 | (low >> 48 & 0x3fff), low & 0xffffffffffff);
}

std::string Pair(const std::string& key, const std::string& value) {
  return absl::StrCat("\"", key, "\": \"", value, "\",\n");
}

std::string VariableName(EvalRandom& random) {
  constexpr int kLetters = 5;
  std::string name;
  for (int i = 0; i < kLetters; ++i) name += static_cast<char>('A' + random.Below(26));
  return name;
}

std::string MadeUpWord(EvalRandom& random) {
  return absl::StrCat(random.Choice(kSyllables), random.Choice(kSyllables),
                      random.Choice(kSyllables), random.Choice(kEndings));
}

}  // namespace

absl::StatusOr<Draft> DraftKvRetrieval(const PromptMaterial& material, const DraftShape& shape,
                                       EvalRandom& random) {
  const std::string key = Uuid(random), value = Uuid(random);
  Draft draft;
  draft.question = absl::StrCat("What is the value of key \"", key, "\" in the JSON object above?");
  draft.answers = {value};
  const std::string asked = Pair(key, value);
  LONGSPAN_ASSIGN_OR_RETURN(int64_t room, RoomOf(material, shape, draft.question));
  LONGSPAN_ASSIGN_OR_RETURN(const int64_t asked_tokens, CountTokens(material, asked));
  room -= asked_tokens + kBraceTokens;
  std::vector<std::string> pairs;
  while (room > 0) {
    std::string pair = Pair(Uuid(random), Uuid(random));
    LONGSPAN_ASSIGN_OR_RETURN(const int64_t tokens, CountTokens(material, pair));
    room -= tokens;
    if (room >= 0) pairs.push_back(std::move(pair));
  }
  const auto place = std::lround(shape.depth * static_cast<double>(pairs.size()));
  pairs.insert(pairs.begin() + place, asked);
  pairs.back().erase(pairs.back().size() - 2, 1);  // no comma behind the last
  draft.needles.push_back({kBehindFiller, "{\n"});
  for (std::string& pair : pairs) draft.needles.push_back({kBehindFiller, std::move(pair)});
  draft.needles.push_back({kBehindFiller, "}\n"});
  return draft;
}

absl::StatusOr<Draft> DraftVariableTracking(const PromptMaterial&, const DraftShape& shape,
                                            EvalRandom& random) {
  const std::string number = absl::StrCat(10000 + random.Below(90000));
  Draft draft;
  draft.question = absl::StrCat("Which variables have the value ", number, "?");
  std::vector<double> depths;
  for (int64_t i = 0; i < shape.needles; ++i) depths.push_back(random.Share());
  std::sort(depths.begin(), depths.end());
  std::string before = number;
  std::set<std::string> taken;
  for (const double depth : depths) {
    std::string name = VariableName(random);
    while (!taken.insert(name).second) name = VariableName(random);
    draft.needles.push_back({depth, absl::StrCat("VAR ", name, " = ", before, "\n")});
    before = absl::StrCat("VAR ", name);
    draft.answers.push_back(name);
  }
  return draft;
}

absl::StatusOr<Draft> DraftCommonWords(const PromptMaterial& material, const DraftShape& shape,
                                       EvalRandom& random) {
  Draft draft;
  draft.question = absl::StrCat("Which ", shape.needles, " words are the most common in the list?");
  LONGSPAN_ASSIGN_OR_RETURN(int64_t room, RoomOf(material, shape, draft.question));
  std::set<std::string> taken;
  while (true) {
    std::string word = MadeUpWord(random);
    if (!taken.insert(word).second) continue;
    const bool is_common = static_cast<int64_t>(draft.answers.size()) < shape.needles;
    const int64_t times = is_common ? kCommon : kUncommon;
    const std::string line = word + "\n";
    LONGSPAN_ASSIGN_OR_RETURN(const int64_t tokens, CountTokens(material, line));
    room -= times * tokens;
    if (room < 0) break;
    draft.needles.insert(draft.needles.end(), times, {kBehindFiller, line});
    if (is_common) draft.answers.push_back(std::move(word));
  }
  if (static_cast<int64_t>(draft.answers.size()) < shape.needles) {
    return absl::InvalidArgumentError(absl::StrCat(
        shape.length, " tokens do not hold ", shape.needles, " words ", kCommon, " times each"));
  }
  random.Shuffle(&draft.needles);
  return draft;
}

}  // namespace longspan
