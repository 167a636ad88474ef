#include "eval/facts.h"

#include <iterator>
#include <set>
#include <string>
#include <vector>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_replace.h"
#include "absl/types/span.h"
#include "eval/words.h"

namespace longspan {
namespace {

// Sentences with `$n` for a name and `$v` for a value. `many` has `$n` for all names.
struct FactForm {
  absl::string_view sentence, one, many;
  std::string (*name)(EvalRandom& random);
  std::string (*value)(EvalRandom& random);
};

std::string NumberOf(int64_t least, int64_t end, EvalRandom& random) {
  return absl::StrCat(least + random.Below(end - least));
}

std::string HexDigits(EvalRandom& random) {
  return absl::StrCat(absl::Hex(random.Next() >> 32, absl::kZeroPad8));
}

std::string IslandName(EvalRandom& random) {
  std::string name;
  for (int64_t syllables = 1 + random.Below(2); syllables > 0; --syllables) {
    absl::StrAppend(&name, random.Choice(kSyllables));
  }
  absl::StrAppend(&name, random.Choice(kEndings));
  name[0] = absl::ascii_toupper(static_cast<unsigned char>(name[0]));
  return name;
}

constexpr FactForm kPasskey = {"The pass key is $v. Remember it. $v is the pass key.\n",
                               "What is the pass key?", "What is the pass key?",
                               [](EvalRandom&) { return std::string("pass key"); },
                               [](EvalRandom& random) { return NumberOf(10000, 100000, random); }};

constexpr FactForm kMagicNumber = {
    "The magic number of the $n is $v.\n", "What is the magic number of the $n?",
    "What are the magic numbers of the $n?",
    [](EvalRandom& random) {
      return absl::StrCat(random.Choice(kAdjectives), " ", random.Choice(kThings));
    },
    [](EvalRandom& random) { return NumberOf(10000, 1000000, random); }};

constexpr FactForm kLegend = {
    "The legendary $n is hidden on the island of $v.\n",
    "On which island is the legendary $n hidden?", "On which islands are the legendary $n hidden?",
    [](EvalRandom& random) {
      return absl::StrCat(random.Choice(kTreasures), " of ", random.Choice(kEssences));
    },
    IslandName};

constexpr FactForm kKeyValue = {"The value of key $n is $v.\n", "What is the value of key $n?",
                                "What are the values of keys $n?", HexDigits, HexDigits};

// "a, b and c".
std::string JoinNames(absl::Span<const std::string> names) {
  if (names.size() < 2) return absl::StrJoin(names, "");
  return absl::StrCat(absl::StrJoin(names.first(names.size() - 1), ", "), " and ", names.back());
}

Draft DraftFacts(const FactForm& form, const DraftShape& shape, EvalRandom& random) {
  Draft draft;
  std::set<std::string> taken;
  std::vector<std::string> asked;
  const auto unique = [&](std::string (*make)(EvalRandom&)) {
    std::string made = make(random);
    while (!taken.insert(made).second) made = make(random);
    return made;
  };
  for (int64_t i = 0; i < shape.needles; ++i) {
    const std::string name = unique(form.name), value = unique(form.value);
    const double spread = static_cast<double>(i) / static_cast<double>(shape.asked);
    const double depth = shape.depth + (1 - shape.depth) * spread;
    draft.needles.push_back({i < shape.asked ? depth : random.Share(),
                             absl::StrReplaceAll(form.sentence, {{"$n", name}, {"$v", value}})});
    if (i >= shape.asked) continue;
    asked.push_back(name);
    draft.answers.push_back(value);
  }
  draft.question =
      absl::StrReplaceAll(asked.size() == 1 ? form.one : form.many, {{"$n", JoinNames(asked)}});
  return draft;
}

}  // namespace

Draft DraftPasskey(const DraftShape& shape, EvalRandom& random) {
  return DraftFacts(kPasskey, shape, random);
}

Draft DraftMagicNumbers(const DraftShape& shape, EvalRandom& random) {
  return DraftFacts(kMagicNumber, shape, random);
}

Draft DraftNeedleBench(const DraftShape& shape, EvalRandom& random) {
  return DraftFacts(kLegend, shape, random);
}

Draft DraftKeyValues(const DraftShape& shape, EvalRandom& random) {
  return DraftFacts(kKeyValue, shape, random);
}

Draft DraftCountingStars(const DraftShape& shape, EvalRandom& random) {
  Draft draft;
  draft.question = "Which numbers did the penguin count?";
  std::set<std::string> taken;
  while (static_cast<int64_t>(draft.answers.size()) < shape.needles) {
    const std::string number = NumberOf(10, 1000, random);
    if (!taken.insert(number).second) continue;
    const double place = static_cast<double>(draft.answers.size()) + 0.5;
    draft.needles.push_back({place / static_cast<double>(shape.needles),
                             absl::StrCat("The penguin counted ", number, " fish.\n")});
    draft.answers.push_back(number);
  }
  return draft;
}

}  // namespace longspan
