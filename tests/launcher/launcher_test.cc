#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <string>
#include <vector>

#include "absl/flags/flag.h"
#include "absl/strings/str_cat.h"
#include "launcher/batch_runner.h"
#include "launcher/flags.h"
#include "launcher/progress.h"

namespace longspan {
namespace {

namespace fs = std::filesystem;
using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

// Answers every request with its prompt's length after `steps` steps, one request at a time.
class FakeEngine final : public Engine {
 public:
  explicit FakeEngine(int steps) : steps_(steps) {
    config_.model = "/models/fake/";
    auto tokenizer = Tokenizer::Parse(R"({"version": "1.0", "added_tokens": [], "normalizer": null,
        "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": false, "use_regex": true},
        "post_processor": null, "decoder": {"type": "ByteLevel"},
        "model": {"type": "BPE", "vocab": {"a": 0, "b": 1}, "merges": []}})");
    EXPECT_TRUE(tokenizer.ok()) << tokenizer.status();
    tokenizer_ = *std::move(tokenizer);
  }

  const Config& config() const override { return config_; }
  const Tokenizer& tokenizer() const override { return *tokenizer_; }
  int64_t vocab_size() const override { return 2; }
  absl::StatusOr<int64_t> Submit(Request request) override {
    if (request.prompt.empty()) return absl::InvalidArgumentError("no prompt");
    queue_.push_back({next_++, static_cast<int64_t>(request.prompt.size()), 0});
    most_queued = std::max(most_queued, queue_.size());
    return queue_.back().id;
  }
  bool HasWork() const override { return !queue_.empty(); }
  int64_t num_waiting() const override {
    return std::max<int64_t>(0, static_cast<int64_t>(queue_.size()) - (started_ ? 1 : 0));
  }
  absl::StatusOr<std::vector<RequestUpdate>> Step() override {
    if (fail_at_step >= 0 && fail_at_step-- == 0) return absl::InternalError("a rank died");
    started_ = true;
    Item& item = queue_.front();
    RequestUpdate update{item.id, item.prompt_tokens, item.prompt_tokens};
    if (++item.steps == steps_) {
      update.finished = true;
      update.completion.text = absl::StrCat(item.prompt_tokens, " tokens");
      queue_.erase(queue_.begin());
      started_ = false;
    }
    return std::vector<RequestUpdate>{update};
  }
  absl::StatusOr<EngineStats> Shutdown() override { return EngineStats(); }
  absl::Status RunWorker() override { return absl::OkStatus(); }

  size_t most_queued = 0;
  int fail_at_step = -1;

 private:
  struct Item {
    int64_t id;
    int64_t prompt_tokens;
    int steps;
  };
  Config config_;
  std::unique_ptr<Tokenizer> tokenizer_;
  int steps_;
  bool started_ = false;
  int64_t next_ = 100;
  std::vector<Item> queue_;
};

class AnswerBatchTest : public ::testing::Test {
 protected:
  AnswerBatchTest() {
    directory_ = fs::path(::testing::TempDir()) /
                 absl::StrCat("launcher_test_",
                              ::testing::UnitTest::GetInstance()->current_test_info()->name());
    fs::remove_all(directory_);
    fs::create_directories(directory_);
  }
  ~AnswerBatchTest() override { fs::remove_all(directory_); }

  static std::string Line(int i, const std::string& prompt) {
    return absl::StrCat(R"({"custom_id":"r)", i,
                        R"(","method":"POST","url":"/v1/completions","body":{"prompt":)", prompt,
                        "}}\n");
  }

  absl::StatusOr<BatchCounts> Answer(
      FakeEngine& engine, const std::string& lines,
      const std::function<bool()>& stop = [] { return false; }) {
    std::ofstream(directory_ / "in") << lines;
    auto input = BatchInput::Open(directory_ / "in");
    EXPECT_TRUE(input.ok()) << input.status();
    auto output = BatchOutput::Open(directory_ / "out", **input);
    EXPECT_TRUE(output.ok()) << output.status();
    Progress progress(ProgressStyle::kOff, stderr, 0);
    return AnswerBatch(**input, /*chat_template=*/nullptr, **output, engine, progress, stop);
  }
  std::string Output() const {
    std::ifstream file(directory_ / "out");
    return {std::istreambuf_iterator<char>(file), {}};
  }

  fs::path directory_;
};

TEST_F(AnswerBatchTest, ReadsNoMorePromptsThanCanRun) {
  FakeEngine engine(/*steps=*/3);
  std::string lines;
  for (int i = 0; i < 20; ++i) lines += Line(i, "[0,1,0]");
  const auto counts = Answer(engine, lines);
  ASSERT_TRUE(counts.ok()) << counts.status();
  EXPECT_EQ(counts->answered, 20);
  EXPECT_LE(engine.most_queued, 2u);
  EXPECT_THAT(Output(), AllOf(HasSubstr("\"3 tokens\""), HasSubstr("\"model\":\"fake\"")));
}

TEST_F(AnswerBatchTest, RefusedRequestsAreErrorLines) {
  FakeEngine engine(/*steps=*/1);
  const auto counts =
      Answer(engine, Line(0, "\"ab\"") + "{bad\n" + Line(1, "[]") + Line(2, "\"ba\""));
  ASSERT_TRUE(counts.ok()) << counts.status();
  EXPECT_EQ(counts->answered, 2);
  EXPECT_EQ(counts->failed, 2);
  EXPECT_THAT(Output(), AllOf(HasSubstr("line 2: not valid JSON"), HasSubstr("\"no prompt\"")));

  FakeEngine again(/*steps=*/1);
  const auto second = Answer(again, Line(0, "\"ab\"") + Line(1, "[1]") + Line(2, "\"ba\""));
  ASSERT_TRUE(second.ok()) << second.status();
  EXPECT_EQ(second->answered_before, 2);
  EXPECT_EQ(second->answered, 1);
  EXPECT_EQ(second->failed, 0);
}

TEST_F(AnswerBatchTest, EngineErrorsEndTheRun) {
  FakeEngine engine(/*steps=*/2);
  engine.fail_at_step = 3;
  EXPECT_EQ(Answer(engine, Line(0, "[0]") + Line(1, "[0]")).status().message(), "a rank died");
  EXPECT_THAT(Output(), HasSubstr("\"r0\""));
}

TEST_F(AnswerBatchTest, StopsBetweenSteps) {
  FakeEngine engine(/*steps=*/2);
  int asked = 0;
  const auto counts =
      Answer(engine, Line(0, "[0]") + Line(1, "[0]"), [&asked] { return ++asked == 5; });
  ASSERT_TRUE(counts.ok()) << counts.status();
  EXPECT_TRUE(counts->stopped);
  EXPECT_EQ(counts->answered, 1);
}

TEST(ModelName, IsTheLastPartOfThePath) {
  Config config;
  config.model = "models/needle";
  EXPECT_EQ(ModelName(config), "needle");
  config.model = "models/needle/";
  EXPECT_EQ(ModelName(config), "needle");
}

class ProgressTest : public ::testing::Test {
 protected:
  ProgressTest() { file_ = open_memstream(&text_, &bytes_); }
  ~ProgressTest() override {
    fclose(file_);
    free(text_);
  }
  std::string Text() {
    fflush(file_);
    return std::string(text_, bytes_);
  }

  char* text_ = nullptr;
  size_t bytes_ = 0;
  FILE* file_;
};

TEST_F(ProgressTest, ShortRunsAreSilent) {
  Progress progress(ProgressStyle::kBar, file_, 100);
  for (double t = 100; t < 101.9; t += 0.01) progress.Update({.total = 5}, t);
  progress.Clear();
  EXPECT_EQ(Text(), "");
}

TEST_F(ProgressTest, LinesAreRare) {
  Progress progress(ProgressStyle::kLines, file_, 0);
  for (int t = 0; t <= 25; ++t) {
    progress.Update({.done = t / 10,
                     .total = 10,
                     .fraction = t / 100.0,
                     .prompt_tokens = 500 * t,
                     .generated_tokens = 3 * t},
                    t);
  }
  const std::string text = Text();
  EXPECT_EQ(std::count(text.begin(), text.end(), '\n'), 3);
  EXPECT_THAT(text, AllOf(HasSubstr("2/10 prompts | 500 prompt tokens/s | 3.0 decoded tokens/s"),
                          HasSubstr("0:22, 1:18 left"), HasSubstr("[#####....")));
}

TEST_F(ProgressTest, ABarRedrawsItselfAndLeavesNothing) {
  {
    Progress progress(ProgressStyle::kBar, file_, 0);
    for (int t = 0; t <= 100; ++t)
      progress.Update({.done = 1, .total = 1, .fraction = 2}, t / 10.0);
  }
  const std::string text = Text();
  EXPECT_EQ(std::count(text.begin(), text.end(), '\n'), 0);
  EXPECT_GT(std::count(text.begin(), text.end(), '\r'), 20);
  EXPECT_THAT(text, HasSubstr("[########################] 1/1"));
  EXPECT_TRUE(text.ends_with("\r\033[K"));
}

TEST(SummaryText, SurvivesEmptyRuns) {
  EXPECT_THAT(SummaryText({}, true), HasSubstr("0 tokens, 0 tokens/s"));
  EngineStats stats{1000, 60, 50, 2.0, 0.5, 10, 1000, {3 << 20, 5 << 20}};
  EXPECT_THAT(SummaryText(stats, true),
              AllOf(HasSubstr("1000 tokens, 500 tokens/s"), HasSubstr("60 tokens, 100.0 tokens/s"),
                    HasSubstr("1.00%"), HasSubstr("peak memory   3 5 MiB (each rank)")));
  EXPECT_THAT(SummaryText(stats, false), HasSubstr("peak memory   3 MiB (all ranks)"));
}

TEST(ParseFlags, SetsKnownFlagsOnly) {
  const std::vector<absl::string_view> allowed = {"model", "max_tokens", "set", "input"};
  const auto positional = ParseFlags({"one", "--model=a=b", "-input", "-", "--set", "x=1", "--set",
                                      "y=2=3", "--max_tokens", "-5", "--", "--model"},
                                     allowed);
  ASSERT_TRUE(positional.ok()) << positional.status();
  EXPECT_THAT(*positional, ElementsAre("one", "--model"));
  EXPECT_EQ(absl::GetFlag(FLAGS_model), "a=b");
  EXPECT_EQ(absl::GetFlag(FLAGS_input), "-");
  EXPECT_EQ(absl::GetFlag(FLAGS_max_tokens), -5);
  const auto overrides = SetFlags();
  ASSERT_TRUE(overrides.ok()) << overrides.status();
  ASSERT_EQ(overrides->size(), 2u);
  EXPECT_EQ((*overrides)[1].key, "y");
  EXPECT_EQ((*overrides)[1].value, "2=3");

  EXPECT_FALSE(ParseFlags({"--output=x"}, allowed).ok());
  EXPECT_FALSE(ParseFlags({"--nomodel"}, allowed).ok());
  EXPECT_FALSE(ParseFlags({"--model"}, allowed).ok());
  EXPECT_FALSE(ParseFlags({"--max_tokens=x"}, allowed).ok());
  EXPECT_FALSE(ParseFlags({"--"}, allowed)->size() > 0);
}

}  // namespace
}  // namespace longspan
