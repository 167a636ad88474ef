#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <functional>
#include <new>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "absl/flags/flag.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/synchronization/notification.h"
#include "absl/time/time.h"
#include "collectives/agree.h"
#include "collectives/thread_communicator.h"
#include "launcher/batch_runner.h"
#include "launcher/bench_report.h"
#include "launcher/bench_shape.h"
#include "launcher/bootstrap.h"
#include "launcher/flags.h"
#include "launcher/progress.h"

ABSL_FLAG(bool, test_switch, false, "");

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
    config_.max_model_len = 100;
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
  absl::Status Check(const Request&) const override { return absl::OkStatus(); }
  absl::StatusOr<int64_t> SubmitChoice(std::shared_ptr<const Request> request, int64_t) override {
    if (request->prompt.empty()) return absl::InvalidArgumentError("no prompt");
    queue_.push_back({next_++, static_cast<int64_t>(request->prompt.size()), 0});
    most_queued = std::max(most_queued, queue_.size());
    return queue_.back().id;
  }
  void Cancel(int64_t) override {}
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
  EngineLoad load() const override { return {}; }
  const EngineStats& stats() const override { return stats_; }
  const std::vector<RankStats>& rank_stats() const override { return rank_stats_; }
  absl::StatusOr<std::vector<RankPhases>> TakePhases() override {
    return std::vector<RankPhases>();
  }
  const MemoryPlan& memory_plan() const override { return memory_plan_; }
  absl::StatusOr<EngineStats> Shutdown() override { return stats_; }
  absl::Status RunWorker() override { return absl::OkStatus(); }
  void CountSelections() override {}
  const SelectionStats* selection_stats() const override { return nullptr; }

  size_t most_queued = 0;
  int fail_at_step = -1;

 private:
  struct Item {
    int64_t id;
    int64_t prompt_tokens;
    int steps;
  };
  Config config_;
  EngineStats stats_;
  MemoryPlan memory_plan_;
  std::vector<RankStats> rank_stats_;
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

// What a rank has loaded: its end is in order once the other ranks know that this one has failed.
struct Loaded {
  absl::Notification* known;
  bool* in_order;
  ~Loaded() { *in_order = known->WaitForNotificationWithTimeout(absl::Seconds(10)); }
};

// Rank 1 of two runs `body`, rank 0 waits for it; the error of both, and whether it came in order.
absl::Status FailOnRank1(const std::function<absl::StatusOr<int>()>& body, bool* in_order) {
  absl::Notification known;
  return RunThreadRanks(2, [&](Communicator& communicator) -> absl::Status {
    if (communicator.rank() == 0) {
      absl::Status failed = communicator.Barrier("never");
      known.Notify();
      return failed;
    }
    const Loaded loaded = {&known, in_order};
    return RunOrAbort(communicator, body).status();
  });
}

TEST(RunOrAbort, EndsTheJobWhileWhatIsLoadedIsThere) {
  bool in_order = false;
  EXPECT_EQ(FailOnRank1([] { return absl::DataLossError("alone"); }, &in_order),
            absl::DataLossError("rank 1: alone"));
  EXPECT_TRUE(in_order);
  in_order = false;
  const auto thrown = []() -> absl::StatusOr<int> { throw std::bad_alloc(); };
  EXPECT_EQ(FailOnRank1(thrown, &in_order), absl::ResourceExhaustedError("rank 1: out of memory"));
  EXPECT_TRUE(in_order);
}

TEST(RunOrAbort, LetsRanksEndInOrderThatAgree) {
  const absl::Status status = RunThreadRanks(2, [&](Communicator& communicator) {
    const absl::StatusOr<int> failed = RunOrAbort(communicator, [&]() -> absl::StatusOr<int> {
      return AgreeOnStatus(&communicator, communicator.rank() == 1 ? absl::DataLossError("agreed")
                                                                   : absl::OkStatus());
    });
    EXPECT_EQ(failed.status().message(), "agreed");
    const absl::StatusOr<int> fine = RunOrAbort(communicator, [] { return 7; });
    EXPECT_EQ(fine.value_or(0), 7);
    return communicator.Barrier("the others are there");
  });
  EXPECT_EQ(status, absl::OkStatus());
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

TEST(TextFor, HasWhatConcernsTheCommand) {
  constexpr char kHelp[] = "All: of it. bench: this. plan and scale: that. And more";
  EXPECT_EQ(TextFor("bench", kHelp), "All: of it. this");
  EXPECT_EQ(TextFor("plan", kHelp), "All: of it. that. And more");
  EXPECT_EQ(TextFor("scale", kHelp), "All: of it. that. And more");
  EXPECT_EQ(TextFor("eval", "bench: this"), "bench: this");
}

TEST(ParseFlags, TakesHyphensForUnderscores) {
  const std::vector<absl::string_view> allowed = {"max_tokens", "prompt_template", "test_switch"};
  const auto positional =
      ParseFlags({"--max-tokens=7", "--prompt-template", "a-b", "--test-switch"}, allowed);
  ASSERT_TRUE(positional.ok()) << positional.status();
  EXPECT_EQ(absl::GetFlag(FLAGS_max_tokens), 7);
  EXPECT_EQ(absl::GetFlag(FLAGS_prompt_template), "a-b");
  EXPECT_TRUE(absl::GetFlag(FLAGS_test_switch));
  ASSERT_TRUE(ParseFlags({"--no-test-switch"}, allowed).ok());
  EXPECT_FALSE(absl::GetFlag(FLAGS_test_switch));
  ASSERT_TRUE(ParseFlags({"--test-switch"}, allowed).ok());
  ASSERT_TRUE(ParseFlags({"--notest-switch"}, allowed).ok());
  EXPECT_FALSE(absl::GetFlag(FLAGS_test_switch));
}

TEST(ParseFlags, NamesTheFlagThatWasMeant) {
  const std::vector<absl::string_view> allowed = {"max_tokens", "prompt_template", "set", "port"};
  const auto message = [&](const std::string& flag) {
    return std::string(ParseFlags({flag}, allowed).status().message());
  };
  EXPECT_EQ(message("--max-token=5"), "unknown flag --max-token (did you mean --max_tokens?)");
  EXPECT_EQ(message("--poort"), "unknown flag --poort (did you mean --port?)");
  EXPECT_EQ(message("--host"), "unknown flag --host");  // is not far from --port
  EXPECT_EQ(message("--" + std::string(100'000, 'x')).size(), 100'015u);
}

BenchReport KernelReport() {
  BenchReport report;
  report.benchmark = "kernels";
  report.machine = {"NVIDIA H200", "driver 1.2, CUDA 13.0", "bfloat16", 4e12, 800e12};
  BenchRow row;
  row.name = "decode attention";
  row.shape = "1 x 262144 tokens";
  row.context = 262144;
  row.timing = {32e-6, 30e-6, 41};
  row.work = {64e6, 320e6};
  report.rows.push_back(row);
  return report;
}

// RFC 4180, as a reader of it would.
std::vector<std::vector<std::string>> ParseCsv(const std::string& text) {
  std::vector<std::vector<std::string>> lines = {{""}};
  bool quoted = false;
  for (size_t i = 0; i < text.size(); ++i) {
    std::string& cell = lines.back().back();
    if (text[i] == '"' && quoted && i + 1 < text.size() && text[i + 1] == '"') {
      cell += text[i++];
    } else if (text[i] == '"') {
      quoted = !quoted;
    } else if (text[i] == ',' && !quoted) {
      lines.back().emplace_back();
    } else if (text[i] == '\n' && !quoted) {
      lines.push_back({""});
    } else {
      cell += text[i];
    }
  }
  EXPECT_EQ(lines.back(), std::vector<std::string>{""}) << "the last line ends";
  lines.pop_back();
  return lines;
}

TEST(BenchReport, FormatsAreByName) {
  EXPECT_EQ(*ParseReportFormat("csv"), ReportFormat::kCsv);
  EXPECT_EQ(*ParseReportFormat("json"), ReportFormat::kJson);
  EXPECT_THAT(ParseReportFormat("xml").status().message(), HasSubstr("--format"));
}

TEST(BenchReport, CsvQuotesWhatItMust) {
  BenchReport report = KernelReport();
  report.rows[0].name = "a \"name\", and\nmore";
  report.machine.device = "GPU, \"big\"";
  const auto lines = ParseCsv(FormatReport(report, ReportFormat::kCsv));
  ASSERT_EQ(lines.size(), 2u);
  ASSERT_EQ(lines[0].size(), lines[1].size());
  EXPECT_THAT(lines[0], testing::IsSupersetOf({"name", "median_us", "must_us", "device"}));
  const auto cell = [&](absl::string_view title) {
    return lines[1][std::find(lines[0].begin(), lines[0].end(), title) - lines[0].begin()];
  };
  EXPECT_EQ(cell("name"), report.rows[0].name);
  EXPECT_EQ(cell("device"), report.machine.device);
  EXPECT_EQ(cell("median_us"), "32");
  EXPECT_EQ(cell("must_us"), "") << "no target yet";
}

TEST(BenchReport, JsonHasNumbersAndNulls) {
  BenchReport report = KernelReport();
  report.rows[0].name = "a \"name\"\n";
  report.machine.device = "GPU \xff";
  const auto json = nlohmann::json::parse(FormatReport(report, ReportFormat::kJson));
  EXPECT_EQ(json["benchmark"], "kernels");
  EXPECT_EQ(json["rows"][0]["name"], report.rows[0].name);
  EXPECT_DOUBLE_EQ(json["rows"][0]["gb_per_s"], 2000);
  EXPECT_DOUBLE_EQ(json["rows"][0]["share_of_copy"], 0.5);
  EXPECT_DOUBLE_EQ(json["rows"][0]["tflop_per_s"], 10);
  EXPECT_TRUE(json["rows"][0]["tokens_per_s"].is_null());
  report.rows.clear();
  EXPECT_TRUE(nlohmann::json::parse(FormatReport(report, ReportFormat::kJson))["rows"].empty());
}

TEST(BenchReport, TableHasTheColumnsThatHaveValues) {
  BenchReport report = KernelReport();
  report.rows.push_back(report.rows[0]);
  report.rows[1].name = "short";
  report.rows[1].work = {};
  const std::string text = FormatReport(report, ReportFormat::kTable);
  EXPECT_THAT(text, AllOf(HasSubstr("bench kernels; NVIDIA H200; driver 1.2, CUDA 13.0"),
                          HasSubstr("copy 4 TB/s, matmul 800 TFLOP/s"), HasSubstr("32.00 us"),
                          HasSubstr("50.0%"), testing::Not(HasSubstr("tokens/s")),
                          testing::Not(HasSubstr("must"))));
  const std::vector<std::string> lines = absl::StrSplit(text, '\n');
  ASSERT_GE(lines.size(), 7u);  // three lines of header, an empty one, titles
  EXPECT_EQ(lines[5].find("32.00 us"), lines[6].find("32.00 us")) << "aligned";
}

TEST(BenchReport, TargetsAreForOneShapeOnOneGpu) {
  BenchReport report = KernelReport();
  AddTargets(&report);
  EXPECT_DOUBLE_EQ(report.rows[0].must_s, 40e-6);
  EXPECT_DOUBLE_EQ(report.rows[0].aim_s, 28e-6);
  EXPECT_THAT(FormatReport(report, ReportFormat::kTable), HasSubstr("40.00 us"));

  const auto has_target = [](const BenchReport& changed) {
    BenchReport copy = changed;
    AddTargets(&copy);
    return copy.rows[0].must_s > 0;
  };
  BenchReport other = KernelReport();
  other.machine.device = "NVIDIA H100 80GB HBM3";
  EXPECT_FALSE(has_target(other));
  other = KernelReport();
  other.shape.top_k = 1024;
  EXPECT_FALSE(has_target(other));
  other = KernelReport();
  other.rows[0].batch = 2;
  EXPECT_FALSE(has_target(other));
  other = KernelReport();
  other.rows[0].context = 131072;
  EXPECT_FALSE(has_target(other));
  EXPECT_TRUE(has_target(KernelReport()));
}

TEST(BenchReport, UnwritableFilesAreErrors) {
  EXPECT_TRUE(CheckReportPath("").ok());
  EXPECT_THAT(CheckReportPath("/absent/x").message(), HasSubstr("--output /absent/x"));
  EXPECT_THAT(WriteReport("x", "/dev/full").message(), HasSubstr("/dev/full"));
}

TEST(Summarize, MedianAndLeast) {
  const Timing odd = Summarize({3, 1, 2});
  EXPECT_EQ(odd.median_s, 2);
  EXPECT_EQ(odd.min_s, 1);
  EXPECT_EQ(odd.runs, 3);
  EXPECT_EQ(Summarize({4, 1}).median_s, 2.5);
  EXPECT_EQ(Summarize({4}).median_s, 4);
}

// Counted by hand.
TEST(BenchWork, OfDecodedTokens) {
  const BenchShape shape;  // 128 initial, 2,048 selected and 4,096 local tokens, and itself
  EXPECT_EQ(AttendedKeys(shape, 262144), 128 + 2048 + 4096 + 1);
  const Work attend = DecodeAttendWork(shape, 262144, 2);
  EXPECT_EQ(attend.bytes, 2.0 * 6273 * 2 * 1024 * 2);
  EXPECT_EQ(attend.flops, 2.0 * 6273 * 4096 * 4);
  EXPECT_EQ(DecodeScoreWork(shape, 262144, 1).bytes, (262143.0 - 4096 - 128) * 128 * 2);
  BenchShape four = shape;
  four.ranks = 4;
  EXPECT_EQ(DecodeScoreWork(four, 262144, 1).flops * 4, DecodeScoreWork(shape, 262144, 1).flops);
  BenchShape dense = shape;
  dense.attention = Attention::kDense;
  EXPECT_EQ(AttendedKeys(dense, 1000), 1000);
  EXPECT_EQ(DecodeScoreWork(dense, 1000, 1).flops, 0);
}

TEST(BenchWork, OfPrompts) {
  BenchShape shape;
  shape.chunk_tokens = shape.block_tokens = 4;
  shape.attention = Attention::kDense;
  // Queries 4 to 7 see 5, 6, 7 and 8 keys.
  EXPECT_EQ(PrefillAttendWork(shape, {4, 8}).flops, (5.0 + 6 + 7 + 8) * 4 * 4096);
  EXPECT_EQ(shape.last_chunk(8), (Range{4, 8}));
  EXPECT_EQ(shape.last_chunk(9), (Range{8, 9}));
  // A prompt twice as long takes more than twice as much, and attention alone makes it more.
  EXPECT_GT(PromptWork(shape, 16).flops, 1.9 * PromptWork(shape, 8).flops);
}

}  // namespace
}  // namespace longspan
