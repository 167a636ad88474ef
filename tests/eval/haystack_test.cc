#include "eval/haystack.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>

#include "absl/strings/str_cat.h"
#include "tests/eval/eval_testing.h"
#include "tests/runtime/file_testing.h"

namespace longspan {
namespace {

using ::longspan::testing::EvalTokenizers;
using ::longspan::testing::Fails;
using ::longspan::testing::IsOk;
using ::longspan::testing::TempDir;
using ::longspan::testing::WriteFile;
using ::testing::EndsWith;
using ::testing::HasSubstr;
using ::testing::Not;

// The number is of an implementation in Python.
TEST(EvalRandomTest, DrawsTheSameEverywhere) {
  EvalRandom random("seed/7");
  EXPECT_EQ(random.Next(), 0x5ba2c0dd4ee2cd82u);
  EXPECT_NE(EvalRandom("seed/8").Next(), EvalRandom("seed/7").Next());
}

TEST(HaystackTest, TakesExactlySoManyTokens) {
  for (const auto& [name, tokenizer] : EvalTokenizers()) {
    const auto haystack = Haystack::Load("", *tokenizer);
    ASSERT_THAT(haystack, IsOk());
    for (const int64_t tokens : {0, 1, 17, 5000}) {
      EvalRandom random("a"), again("a"), other("b");
      const auto lines = haystack->Take(tokens, random);
      ASSERT_THAT(lines, IsOk());
      EXPECT_EQ(static_cast<int64_t>(lines->ids.size()), tokens) << name;
      EXPECT_EQ(lines->ids, haystack->Take(tokens, again)->ids);
      if (tokens < 5000) continue;
      EXPECT_EQ(lines->ends.back(), tokens);
      EXPECT_THAT(tokenizer->Decode(lines->ids, false), EndsWith("\n"));
      EXPECT_NE(lines->ids, haystack->Take(tokens, other)->ids);
    }
  }
}

// Lines made one by one are the text that was meant, without spaces before them.
TEST(HaystackTest, LinesFollowEachOther) {
  for (const auto& [name, tokenizer] : EvalTokenizers()) {
    std::vector<int32_t> ids = *tokenizer->Encode("First.\n", false);
    for (const std::string line : {"Second one.\n", "Third: 42"}) {
      const auto more = EncodeLine(*tokenizer, line);
      ASSERT_THAT(more, IsOk());
      ids.insert(ids.end(), more->begin(), more->end());
    }
    EXPECT_EQ(tokenizer->Decode(ids, false), "First.\nSecond one.\nThird: 42") << name;
  }
}

TEST(HaystackTest, AFileIsItsParagraphsRoundAndRound) {
  const TempDir directory;
  const std::string path = directory / "text.txt";
  WriteFile(path, "  Alpha beta.  \n\nGamma delta.\r\nEpsilon.\n");
  const auto tokenizer = Tokenizer::Load(std::string(LONGSPAN_SOURCE_DIR) + "/models/needle");
  const auto haystack = Haystack::Load(path, **tokenizer);
  ASSERT_THAT(haystack, IsOk());
  const auto all = EncodeLine(**tokenizer, "Alpha beta.\nGamma delta.\nEpsilon.\n");
  const auto tokens = static_cast<int64_t>(all->size());
  EXPECT_THAT(haystack->CheckHolds(tokens), IsOk());
  EXPECT_THAT(haystack->CheckHolds(tokens + 1),
              Fails(absl::StatusCode::kInvalidArgument,
                    absl::StrCat("--haystack ", path, " is too short: it has ", tokens,
                                 " tokens, and the longest prompt has ", tokens + 1)));
  EvalRandom random("a");
  const auto lines = haystack->Take(tokens, random);
  ASSERT_THAT(lines, IsOk());
  const std::string text = (*tokenizer)->Decode(lines->ids, false);
  for (const char* line : {"Alpha beta.\n", "Gamma delta.\n", "Epsilon.\n"}) {
    EXPECT_THAT(text, HasSubstr(line));
  }
  WriteFile(path, "\n \n");
  EXPECT_THAT(Haystack::Load(path, **tokenizer)->CheckHolds(1), Not(IsOk()));
  EXPECT_THAT(Haystack::Load(directory / "absent", **tokenizer),
              Fails(absl::StatusCode::kNotFound, "absent"));
}

}  // namespace
}  // namespace longspan
