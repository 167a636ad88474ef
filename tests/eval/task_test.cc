#include "eval/task.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>
#include <string>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "eval/position_loss.h"
#include "tests/eval/eval_testing.h"
#include "tests/runtime/file_testing.h"

namespace longspan {
namespace {

using ::longspan::testing::EvalMaterial;
using ::longspan::testing::EvalTokenizers;
using ::longspan::testing::Fails;
using ::longspan::testing::IsOk;
using ::longspan::testing::TempDir;
using ::longspan::testing::WriteFile;
using ::testing::EndsWith;
using ::testing::HasSubstr;

constexpr auto kInvalid = absl::StatusCode::kInvalidArgument;

absl::StatusOr<CaseSource> Open(const std::string& name, const PromptMaterial& material,
                                const TaskOptions& options = {}) {
  const auto requests = ParseTasks(name);
  if (!requests.ok()) return requests.status();
  return OpenTask((*requests)[0], options, material);
}

// Of every generated task: exact lengths, the same case again, and scores of 1, 0 and between.
TEST(TaskTest, GeneratedTasks) {
  for (const auto& [name, tokenizer] : EvalTokenizers()) {
    const EvalMaterial made(*tokenizer);
    for (const EvalTask& task : EvalTasks()) {
      if (task.draft == nullptr) continue;
      SCOPED_TRACE(absl::StrCat(name, ", ", task.name));
      const auto source = Open(std::string(task.name), made.material);
      ASSERT_THAT(source, IsOk());
      for (const int64_t length : {6001, 8192}) {
        for (const double depth : {0.0, 0.3, 1.0}) {
          const CaseId id = {length, depth, 1};
          const auto one = source->make(id);
          ASSERT_THAT(one, IsOk());
          EXPECT_EQ(static_cast<int64_t>(one->prompt.size()), length);
          EXPECT_EQ(source->make(id)->prompt, one->prompt);
          EXPECT_NE(source->make({length, depth, 2})->prompt, one->prompt);
          EXPECT_EQ(*source->measure(id), one->max_tokens);
          EXPECT_EQ(one->stop, one->answers.size() > 1 ? "\n\n" : "\n");

          const std::string text = tokenizer->Decode(one->prompt, true);
          EXPECT_THAT(text, EndsWith(absl::StrCat("\nQuestion: ", one->question, "\n")));
          for (const std::string& answer : one->answers) EXPECT_THAT(text, HasSubstr(answer));
          EXPECT_EQ(
              source->score(absl::StrCat("Answer: ", absl::StrJoin(one->answers, ", "), "."), *one),
              1);
          EXPECT_EQ(source->score("Answer: I do not know", *one), 0);
          EXPECT_DOUBLE_EQ(source->score(one->answers[0], *one),
                           1.0 / static_cast<double>(one->answers.size()));
          const auto answer = tokenizer->Encode(absl::StrJoin(one->answers, ", "), false);
          EXPECT_GT(one->max_tokens, static_cast<int64_t>(answer->size()));
        }
      }
      TaskOptions other;
      other.seed = 2;
      EXPECT_NE(Open(std::string(task.name), made.material, other)->make({6001, 0.5, 0})->prompt,
                source->make({6001, 0.5, 0})->prompt);
    }
  }
}

TEST(TaskTest, DepthIsWhereTheFactIs) {
  const auto tokenizer = std::move(EvalTokenizers()[0].second);
  const EvalMaterial made(*tokenizer);
  for (const std::string task : {"passkey", "magic_number", "kv_retrieval"}) {
    const auto source = Open(task, made.material);
    for (const double depth : {0.0, 0.25, 0.5, 1.0}) {
      const auto one = source->make({8192, depth, 0});
      const std::string text = tokenizer->Decode(one->prompt, true);
      const auto place = static_cast<double>(text.find(one->answers[0]));
      EXPECT_NEAR(place / static_cast<double>(text.size()), depth, 0.03) << task;
    }
  }
}

TEST(TaskTest, SeveralAreAskedAtOnce) {
  const auto tokenizer = std::move(EvalTokenizers()[0].second);
  const EvalMaterial made(*tokenizer);
  TaskOptions options;
  options.needles = 6;
  options.asked = 3;
  const auto one = Open("magic_number", made.material, options)->make({4096, 0.2, 0});
  ASSERT_THAT(one, IsOk());
  EXPECT_EQ(one->answers.size(), 3);
  EXPECT_THAT(one->question, HasSubstr("What are the magic numbers of the "));
  const std::string text = tokenizer->Decode(one->prompt, true);
  const std::vector<std::string> parts = absl::StrSplit(text, "The magic number of the ");
  EXPECT_EQ(parts.size(), 1 + 6);
  EXPECT_LT(text.find(one->answers[0]), text.find(one->answers[1]));
  options.asked = 7;
  EXPECT_THAT(Open("magic_number", made.material, options),
              Fails(kInvalid, "--asked 7: a prompt of magic_number has only 6 facts"));
}

TEST(TaskTest, ListsAreWellFormed) {
  const auto tokenizer = std::move(EvalTokenizers()[0].second);
  const EvalMaterial made(*tokenizer);
  const auto pairs = Open("kv_retrieval", made.material)->make({4000, 0.5, 0});
  const std::string text = tokenizer->Decode(pairs->prompt, true);
  const size_t begin = text.find("\n{\n"), end = text.find("}\n");
  const auto json = nlohmann::json::parse(text.substr(begin, end + 1 - begin));
  EXPECT_GT(json.size(), 30);
  const std::vector<std::string> words = absl::StrSplit(pairs->question, '"');
  EXPECT_EQ(json.at(words[1]), pairs->answers[0]);

  const auto words_case = Open("common_words", made.material)->make({6000, std::nullopt, 0});
  const std::string list = tokenizer->Decode(words_case->prompt, true);
  std::map<std::string, int> times;
  for (const absl::string_view line : absl::StrSplit(list, '\n')) ++times[std::string(line)];
  for (const std::string& word : words_case->answers) EXPECT_EQ(times[word], 30);
  int threes = 0;
  for (const auto& [word, count] : times) threes += count == 3;
  EXPECT_GT(threes, 100);

  const auto chain = Open("variable_tracking", made.material)->make({4000, std::nullopt, 0});
  const std::string chained = tokenizer->Decode(chain->prompt, true);
  for (size_t i = 1; i < chain->answers.size(); ++i) {
    const std::string link =
        absl::StrCat("VAR ", chain->answers[i], " = VAR ", chain->answers[i - 1], "\n");
    EXPECT_THAT(chained, HasSubstr(link));
    EXPECT_GT(chained.find(link), chained.find(absl::StrCat("VAR ", chain->answers[i - 1], " =")));
  }
}

TEST(TaskTest, WhatDoesNotFitIsRefused) {
  const auto tokenizer = std::move(EvalTokenizers()[0].second);
  const EvalMaterial made(*tokenizer);
  for (const std::string task : {"passkey", "counting_stars", "kv_retrieval", "common_words"}) {
    EXPECT_THAT(Open(task, made.material)->make({20, 0.0, 0}),
                Fails(kInvalid, "20 tokens do not hold"))
        << task;
    EXPECT_THAT(Open(task, made.material)->measure({20, 0.0, 0}),
                Fails(kInvalid, "20 tokens do not hold"))
        << task;
  }
}

TEST(TaskTest, OptionsThatATaskHasNotAreRefused) {
  const auto tokenizer = std::move(EvalTokenizers()[0].second);
  const EvalMaterial made(*tokenizer);
  const auto open = [&](const std::string& task, std::optional<int64_t> needles,
                        std::optional<int64_t> asked) {
    return Open(task, made.material, {0, needles, asked});
  };
  EXPECT_THAT(open("passkey", 2, {}), Fails(kInvalid, "--needles 2: a prompt of passkey has one"));
  EXPECT_THAT(open("kv_retrieval", {}, 2), Fails(kInvalid, "--asked 2: a prompt of kv_retrieval"));
  EXPECT_THAT(open("passkey", 1, 1), IsOk());
  EXPECT_THAT(open("variable_tracking", 4, 2),
              Fails(kInvalid, "--asked 2: variable_tracking asks for all facts of a prompt"));
  EXPECT_THAT(open("variable_tracking", 4, {}), IsOk());
  EXPECT_THAT(open("needlebench", 4, 2), IsOk());
  EXPECT_THAT(open("perplexity:absent", {}, 1), Fails(kInvalid, "perplexity hides no facts"));
}

TEST(TaskTest, ChatsHaveTheTemplateAroundThem) {
  const auto tokenizer = std::move(EvalTokenizers()[1].second);
  EvalMaterial made(*tokenizer);
  const auto chat_template = ChatTemplate::Parse(
      "[BOS]{% for m in messages %}<{{ m.role }}>{{ m.content }}</>{% endfor %}"
      "{% if add_generation_prompt %}<answer>{% endif %}",
      nlohmann::ordered_json::object());
  ASSERT_THAT(chat_template, IsOk());
  made.material.chat = *MakeChatFrame(*chat_template);
  const auto one = Open("passkey", made.material)->make({2000, 0.5, 0});
  ASSERT_THAT(one, IsOk());
  EXPECT_EQ(one->prompt.size(), 2000);
  EXPECT_TRUE(one->is_chat);
  EXPECT_EQ(one->stop, "");
  const std::string text = tokenizer->Decode(one->prompt, false);
  EXPECT_EQ(text.find("[BOS]<user>"), 0);
  EXPECT_THAT(text, EndsWith("Question: What is the pass key?\n</><answer>"));
  const auto silent = ChatTemplate::Parse("x", nlohmann::ordered_json::object());
  EXPECT_THAT(MakeChatFrame(*silent),
              Fails(absl::StatusCode::kFailedPrecondition, "has a user's message 0 times"));
}

TEST(TaskTest, BadNamesAreRefused) {
  EXPECT_THAT(ParseTasks("passkey,pass_key"), Fails(kInvalid, "there is no task `pass_key`"));
  EXPECT_THAT(ParseTasks("passkey:a.txt"), Fails(kInvalid, "--task passkey:a.txt: takes no file"));
  EXPECT_THAT(ParseTasks("perplexity"), Fails(kInvalid, "as in perplexity:FILE"));
  EXPECT_THAT(ParseTasks("passkey,passkey"), Fails(kInvalid, "names passkey twice"));
  EXPECT_THAT(ParseTasks("perplexity:a,perplexity:b"), IsOk());
}

TEST(PromptFormTest, NeedsBothPlaces) {
  EXPECT_THAT(MakePromptForm("{document}", ""), Fails(kInvalid, "has no {question}"));
  EXPECT_THAT(MakePromptForm("{question}", ""), Fails(kInvalid, "has no {document}"));
  const auto form = MakePromptForm("[{question}]\n{document}\n\n{question}!", "\n");
  ASSERT_THAT(form, IsOk());
  EXPECT_EQ(form->before, "[{question}]\n");
  EXPECT_EQ(form->behind, "\n{question}!");
}

TEST(PerplexityTest, PiecesFollowEachOther) {
  const TempDir directory;
  const std::string path = directory / "book.txt";
  WriteFile(path, std::string(100, 'a') + std::string(100, 'b'));
  const auto tokenizer = std::move(EvalTokenizers()[1].second);
  const EvalMaterial made(*tokenizer);
  const auto source = Open("perplexity:" + path, made.material);
  ASSERT_THAT(source, IsOk());
  EXPECT_EQ(source->label, "perplexity/book");
  EXPECT_EQ(source->metric, EvalMetric::kNats);
  EXPECT_EQ(tokenizer->Decode(source->make({80, std::nullopt, 1})->prompt, true),
            std::string(20, 'a') + std::string(60, 'b'));
  EXPECT_EQ(source->make({80, std::nullopt, 1})->max_tokens, 0);
  EXPECT_THAT(source->make({80, std::nullopt, 2}),
              Fails(kInvalid, "has 200 tokens, too few for 3 pieces of 80"));
  EXPECT_EQ(source->make({80, std::nullopt, 1})->scored_tokens, 79);
  EXPECT_EQ(*source->measure({80, std::nullopt, 1}), 0);
  EXPECT_THAT(source->measure({80, std::nullopt, 2}), Fails(kInvalid, "too few for 3 pieces"));
}

TEST(PerplexityTest, WindowsSlideByTheStride) {
  const TempDir directory;
  const std::string path = directory / "book.txt";
  WriteFile(path, std::string(100, 'a') + std::string(100, 'b'));
  const auto tokenizer = std::move(EvalTokenizers()[1].second);
  EvalMaterial made(*tokenizer);
  made.material.stride = 30;
  const auto source = Open("perplexity:" + path, made.material);
  const auto second = source->make({80, std::nullopt, 1});
  ASSERT_THAT(second, IsOk());
  EXPECT_EQ(tokenizer->Decode(second->prompt, true), std::string(70, 'a') + std::string(10, 'b'));
  EXPECT_EQ(second->scored_tokens, 30);
  EXPECT_THAT(source->make({80, std::nullopt, 4}), IsOk());  // up to the last token
  EXPECT_THAT(source->make({80, std::nullopt, 5}), Fails(kInvalid, "too few for 6 windows of 80"));
  EXPECT_THAT(source->measure({30, std::nullopt, 0}), Fails(kInvalid, "must be below --length"));
}

TEST(PerplexityTest, LossOfParts) {
  std::vector<TokenLogprobs> logprobs(64);
  for (size_t i = 0; i < logprobs.size(); ++i) logprobs[i].logprob = i < 32 ? -1 : -3;
  EXPECT_DOUBLE_EQ(MeanLoss(logprobs), 2);
  const std::vector<double> parts = LossByPart(logprobs);
  ASSERT_EQ(parts.size(), 32);
  EXPECT_DOUBLE_EQ(parts[15], 1);
  EXPECT_DOUBLE_EQ(parts[16], 3);
  EXPECT_EQ(LossByPart(absl::MakeSpan(logprobs).first(3)).size(), 3);
  EXPECT_EQ(LossByPart({}).size(), 0);
}

}  // namespace
}  // namespace longspan
