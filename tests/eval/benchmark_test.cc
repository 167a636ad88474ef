#include "eval/benchmark.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>

#include "absl/strings/str_cat.h"
#include "eval/infinitebench.h"
#include "eval/longbench.h"
#include "tests/eval/eval_testing.h"
#include "tests/runtime/file_testing.h"

// Small files of the published forms: their data is not here.
namespace longspan {
namespace {

using ::longspan::testing::EvalMaterial;
using ::longspan::testing::EvalTokenizers;
using ::longspan::testing::Fails;
using ::longspan::testing::IsOk;
using ::longspan::testing::TempDir;
using ::longspan::testing::WriteFile;
using ::testing::HasSubstr;

constexpr auto kInvalid = absl::StatusCode::kInvalidArgument;
constexpr int64_t kLong = 4096;

class BenchmarkTest : public ::testing::Test {
 protected:
  BenchmarkTest() : tokenizer_(std::move(EvalTokenizers()[1].second)), made_(*tokenizer_) {}

  absl::StatusOr<CaseSource> Long(const std::string& text) {
    WriteFile(directory_ / "data.jsonl", text);
    return OpenLongBench(directory_ / "data.jsonl", made_.material);
  }
  absl::StatusOr<CaseSource> LongOf(const std::string& dataset, const std::string& answers,
                                    const std::string& classes = "null") {
    return Long(absl::StrCat(R"({"input":"Who?","context":"Ann did it.","answers":)", answers,
                             R"(,"length":3,"dataset":")", dataset,
                             R"(","language":"en","all_classes":)", classes, R"(,"_id":"1"})",
                             "\n"));
  }
  absl::StatusOr<CaseSource> Infinite(const std::string& name, const std::string& answer,
                                      const std::string& options = "[]") {
    const std::string path = directory_ / name + ".jsonl";
    WriteFile(path, absl::StrCat(R"({"id":0,"context":"Ann did it.","input":"Who?","answer":)",
                                 answer, R"(,"options":)", options, "}\n"));
    return OpenInfiniteBench(path, made_.material);
  }
  static double Score(const absl::StatusOr<CaseSource>& source, const std::string& answer) {
    EXPECT_THAT(source, IsOk());
    const auto one = source->make({kLong, std::nullopt, 0});
    EXPECT_THAT(one, IsOk());
    return source->score(answer, *one);
  }

  TempDir directory_;
  std::unique_ptr<Tokenizer> tokenizer_;
  EvalMaterial made_;
};

TEST_F(BenchmarkTest, LongBenchScores) {
  const struct {
    std::string dataset, answers, right, wrong, partly;
    double partial;
    std::string classes = "null";
  } kCases[] = {
      {"hotpotqa", R"(["Bob","Ann Lee"])", "the Ann Lee.", "Cid", "Ann", 2.0 / 3},
      {"qasper_e", R"(["unanswerable"])", "Unanswerable", "yes", "unanswerable no", 2.0 / 3},
      {"gov_report", R"(["it rains"])", "it rains", "sun", "it pours", 0.5},
      {"trec", R"(["City"])", "City\nType: x", "Person", "City or State", 0.5,
       R"(["City","State","Person"])"},
      {"triviaqa", R"(["Rome"])", "Rome\nParis", "x\nRome", "Rome now", 2.0 / 3},
      {"samsum", R"(["Ann left"])", "\nAnn left", "x", "Ann stays", 0.5},
      {"passage_count", R"(["12"])", "12", "13", "12 or 13", 0.5},
      {"passage_retrieval_en", R"(["Paragraph 3"])", "Paragraph 3", "Paragraph 4", "3, 4", 0.5},
      {"lcc", R"(["x = 1"])", "\n# set\nx = 1\ny", "_", "x = 2", 0.8},
  };
  for (const auto& one : kCases) {
    SCOPED_TRACE(one.dataset);
    const auto source = LongOf(one.dataset, one.answers, one.classes);
    EXPECT_EQ(Score(source, one.right), 1);
    EXPECT_EQ(Score(source, one.wrong), 0);
    EXPECT_DOUBLE_EQ(Score(source, one.partly), one.partial);
  }
  // A class whose name is a part of the right one's does not count.
  EXPECT_EQ(Score(LongOf("trec", R"(["Big City"])", R"(["City","Big City"])"), "Big City"), 1);
}

TEST_F(BenchmarkTest, InfiniteBenchScores) {
  const std::string four = R"(["Bob","Cid","Ann","Dot"])";
  const struct {
    std::string name, answer, right, wrong, options = "[]";
  } kCases[] = {
      {"passkey", R"(["71432"])", "71432, of 9", "9 71432"},
      {"number_string", R"("0012")", " 0012.", "12"},
      {"kv_retrieval", R"("a-b-1")", "{\"a-b-1\"}", "a-b-12"},
      {"longbook_qa_eng", R"(["Ann Lee"])", "Ann Lee", "Bob"},
      {"longbook_sum_eng", R"("It rains")", "it rains.", "Sun"},
      {"longbook_qa_chn", R"(["红楼梦"])", "“红楼梦”。", "水"},
      {"longdialogue_qa_eng", R"(["ANN"])", "Ann, I think", "Anna"},
      {"longbook_choice_eng", R"(["Ann"])", "C. Ann", "A. Bob", four},
      {"longbook_choice_eng", R"("Ann")", "so the answer is C", "the answer is D", four},
      {"code_debug", R"(["Ann","C"])", "C.", "D.", four},
      {"code_debug", R"(["Ann","C"])", "The answer is: Ann", "C", four},
      {"code_run", "-7", "It is -7.", "7"},
      {"math_find", "42", "42.9 or so", "41"},
      {"math_find", "2.5", "x 2.5", "2"},
      {"math_calc", "[1, 4]", "[1, 4, 8]", "[2, 4]"},
  };
  for (const auto& one : kCases) {
    SCOPED_TRACE(absl::StrCat(one.name, ": ", one.right));
    const auto source = Infinite(one.name, one.answer, one.options);
    EXPECT_EQ(Score(source, one.right), 1);
    EXPECT_EQ(Score(source, one.wrong), 0);
    EXPECT_EQ(Score(source, ""), 0);
  }
  EXPECT_DOUBLE_EQ(Score(Infinite("longbook_qa_eng", R"(["Ann Lee"])"), "Ann"), 2.0 / 3);
  EXPECT_DOUBLE_EQ(Score(Infinite("math_calc", "[1, 4]"), "1 5"), 0.5);
}

TEST_F(BenchmarkTest, PromptsAreTheDataSets) {
  const auto source = LongOf("hotpotqa", R"(["Ann"])");
  EXPECT_EQ(source->label, "longbench/hotpotqa");
  EXPECT_EQ(source->most_cases, 1);
  const auto one = source->make({kLong, std::nullopt, 0});
  const std::string text = tokenizer_->Decode(one->prompt, true);
  EXPECT_THAT(text, HasSubstr("Ann did it."));
  EXPECT_THAT(text, ::testing::EndsWith("Question: Who?\nAnswer:"));
  EXPECT_EQ(one->max_tokens, 32);

  // The middle is cut to the token.
  const auto cut = source->make({20, std::nullopt, 0});
  EXPECT_EQ(tokenizer_->Decode(cut->prompt, true),
            text.substr(0, 10) + text.substr(text.size() - 10));

  made_.material.prompts["hotpotqa"] = "<{context}|{input}>";
  const auto own = LongOf("hotpotqa", R"(["Ann"])")->make({kLong, std::nullopt, 0});
  EXPECT_EQ(tokenizer_->Decode(own->prompt, true), "<Ann did it.|Who?>");

  // As in str.format.
  made_.material.prompts["hotpotqa"] = "{{x}} {context}";
  const auto doubled = LongOf("hotpotqa", R"(["Ann"])")->make({kLong, std::nullopt, 0});
  EXPECT_EQ(tokenizer_->Decode(doubled->prompt, true), "{x} Ann did it.");
  for (const char* bad : {"{func}", "{context", "{file:{context}}", "}"}) {
    made_.material.prompts["hotpotqa"] = absl::StrCat("{context} ", bad);
    EXPECT_THAT(LongOf("hotpotqa", R"(["Ann"])"),
                Fails(kInvalid, absl::StrCat("--prompts: nothing stands for ",
                                             absl::string_view(bad).substr(0, 15))))
        << bad;
  }
  made_.material.prompts["code_run"] = "{context} {func_call}";
  EXPECT_THAT(
      Infinite("code_run", "1"),
      Fails(kInvalid, "nothing stands for {func_call} in the prompt of `code_run`: case 1"));

  made_.material.prompts["math_find"] = "{context} {prefix}";
  const std::string path = directory_ / "math_find.jsonl";
  WriteFile(path, absl::StrCat(R"({"context":"[1]","answer":1,"input":"The )",
                               std::string(1 << 20, 'x'), R"( of"})", "\n"));
  EXPECT_THAT(OpenInfiniteBench(path, made_.material), IsOk());

  made_.material.prompts.clear();
  made_.material.chat = ChatFrame{"<user>", "</><answer>"};
  const auto chat = LongOf("hotpotqa", R"(["Ann"])")->make({kLong, std::nullopt, 0});
  EXPECT_TRUE(chat->is_chat);
  EXPECT_EQ(tokenizer_->Decode(chat->prompt, true), "<user>" + text + "</><answer>");
  // Examples are gone on with.
  EXPECT_FALSE(LongOf("triviaqa", R"(["Ann"])")->make({kLong, std::nullopt, 0})->is_chat);
  made_.material.chat.reset();

  const auto choice = Infinite("longbook_choice_eng", R"(["Ann"])", R"(["Bob","Cid","Ann","Dot"])");
  EXPECT_THAT(tokenizer_->Decode(choice->make({kLong, std::nullopt, 0})->prompt, true),
              HasSubstr("Question: Who?\nA. Bob\nB. Cid\nC. Ann\nD. Dot\n\n"));
}

TEST_F(BenchmarkTest, FilesOfAnotherFormAreRefused) {
  EXPECT_THAT(Long(""), Fails(kInvalid, "data.jsonl: has no lines"));
  EXPECT_THAT(Long("\n{\"dataset\":\n"), Fails(kInvalid, "data.jsonl:2: "));
  EXPECT_THAT(Long("{}\n"), Fails(kInvalid, "data.jsonl:1: `dataset` must be a text"));
  EXPECT_THAT(LongOf("hotpot", R"(["Ann"])"),
              Fails(kInvalid, "the data set `hotpot` is not known"));
  EXPECT_THAT(LongOf("vcsum", R"(["Ann"])"), Fails(kInvalid, "need a segmenter"));
  EXPECT_THAT(LongOf("hotpotqa", "[]"), Fails(kInvalid, ":1: `answers` must be"));
  EXPECT_THAT(LongOf("hotpotqa", "{}"), Fails(kInvalid, ":1: `answers` must be"));
  EXPECT_THAT(LongOf("trec", R"(["Ann"])"), Fails(kInvalid, ":1: `all_classes` must be"));
  const std::string line = R"({"input":"","context":"","answers":["x"],"dataset":"DATASET"})";
  EXPECT_THAT(Long(line + "\n"), Fails(kInvalid, "`DATASET` is not known"));
  EXPECT_THAT(Infinite("unheard", "1"), Fails(kInvalid, "the data set `unheard` is not known"));
  EXPECT_THAT(Infinite("longbook_choice_eng", R"(["Ann"])", R"(["Bob"])"),
              Fails(kInvalid, ":1: `options` must be a list of four texts"));
  EXPECT_THAT(Infinite("longbook_choice_eng", R"(["Eve"])", R"(["Bob","Cid","Ann","Dot"])"),
              Fails(kInvalid, ":1: `answer` must be one of the texts in `options`"));
  EXPECT_THAT(OpenLongBench(directory_ / "absent", made_.material),
              Fails(absl::StatusCode::kNotFound, "absent"));
}

}  // namespace
}  // namespace longspan
