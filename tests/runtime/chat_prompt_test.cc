#include "runtime/chat_prompt.h"

#include <memory>
#include <string>

#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "tests/runtime/file_testing.h"

namespace longspan {
namespace {

using longspan::testing::Fails;
using longspan::testing::IsOk;
using longspan::testing::TempDir;
using longspan::testing::WriteFile;
using ::testing::ElementsAre;
using ::testing::IsEmpty;

using Code = absl::StatusCode;

// A vocabulary of one byte and these tokens.
std::unique_ptr<Tokenizer> TokenizerWith(const std::string& added_tokens,
                                         const std::string& config = "") {
  auto tokenizer = Tokenizer::Parse(absl::StrCat(R"({"added_tokens": [)", added_tokens, R"(],
      "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": false},
      "decoder": {"type": "ByteLevel"},
      "model": {"type": "BPE", "vocab": {"a": 0}, "merges": []}})"),
                                    config);
  EXPECT_THAT(tokenizer, IsOk());
  return *std::move(tokenizer);
}

TEST(EndOfTurnIdsTest, AreTheVocabularysOwnIfSpecial) {
  EXPECT_THAT(EndOfTurnIds(*TokenizerWith("")), IsEmpty());
  EXPECT_THAT(EndOfTurnIds(*TokenizerWith(R"(
                  {"id": 1, "content": "<|eom_id|>", "special": true},
                  {"id": 2, "content": "<|eot_id|>", "special": true},
                  {"id": 3, "content": "<|begin_of_text|>", "special": true})")),
              ElementsAre(2, 1));
  EXPECT_THAT(EndOfTurnIds(*TokenizerWith(R"({"id": 1, "content": "</s>", "special": false},
                                             {"id": 2, "content": "<|im_end|>", "special": true})")),
              ElementsAre(2));
  EXPECT_THAT(EndOfTurnIds(*TokenizerWith("", R"({"eos_token": "a"})")), ElementsAre(0));
}

TEST(LoadTriedChatTemplateTest, FindsWhatDoesNotEndBeforeItIsNeeded) {
  const TempDir dir;
  EXPECT_THAT(LoadTriedChatTemplate(dir.path()), Fails(Code::kNotFound, "no chat template"));
  const auto load = [&](const std::string& source) {
    WriteFile(dir / "chat_template.jinja", source);
    return LoadTriedChatTemplate(dir.path());
  };
  EXPECT_THAT(load("{% for m in messages %}{{ m.content }}{% endfor %}"), IsOk());
  // It may want other messages than the one that it is tried on.
  EXPECT_THAT(load("{{ raise_exception('a system message is needed') }}"), IsOk());
  EXPECT_THAT(load("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}"),
              Fails(Code::kResourceExhausted, "deep"));
  EXPECT_THAT(load("{% for m in messages %}"), Fails(Code::kInvalidArgument, "line 1"));
  EXPECT_THAT(load("{{ messages | frobnicate }}"), Fails(Code::kUnimplemented, "frobnicate"));
}

}  // namespace
}  // namespace longspan
