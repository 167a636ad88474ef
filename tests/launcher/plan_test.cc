// The parts of `longspan plan` that need no files of models; cli_test.sh has the rest.
#include <algorithm>
#include <filesystem>
#include <fstream>
#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "launcher/plan_fit.h"
#include "launcher/plan_hardware.h"
#include "launcher/plan_prediction.h"
#include "launcher/plan_simulate.h"
#include "launcher/plan_target.h"
#include "launcher/plan_task.h"
#include "sharding/topk_merge.h"
#include "tests/runtime/llama3_8b.h"

namespace longspan {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::Not;

template <typename T>
std::string ErrorOf(const absl::StatusOr<T>& result) {
  return std::string(result.status().message());
}

PlanSubject LlamaOn(bool gpu) {
  PlanSubject subject;
  subject.model = Llama3Of8B();
  subject.model.dtype = DType::kBFloat16;
  subject.weights = {8'030'261'248, 16'060'522'496};
  subject.config.device = gpu ? "cuda" : "cpu";
  HardwareProfile& hardware = subject.hardware;
  hardware.is_gpu = gpu;
  hardware.bytes_per_s = 4e12;
  hardware.flops_per_s = 8e14;
  hardware.memory_bytes = 150'000'000'000;
  hardware.ranks_per_host = 8;
  hardware.within_host = {3e-6, 4e11};
  hardware.between_hosts = {5e-6, 5e10};
  return subject;
}

JobPlan PlanOf(const PlanSubject& subject, const PlanSize& size) {
  const absl::StatusOr<JobPlan> plan = PlanJob(subject, size);
  EXPECT_TRUE(plan.ok()) << plan.status();
  return *plan;
}

TEST(PlanPredictionTest, NeedsNoBuildForTheDevice) {
  const JobPlan plan = PlanOf(LlamaOn(true), {4, 262'144, 1});
  EXPECT_EQ(plan.config.dtype, "bfloat16");
  EXPECT_EQ(plan.config.parallel.stripe_tokens, 1024);
  EXPECT_TRUE(plan.memory.fits);
  EXPECT_GT(plan.prompt.seconds, 0.1);
  EXPECT_GT(plan.token.seconds, 16e9 / 4e12);  // it reads all weights
  EXPECT_EQ(PlanOf(LlamaOn(false), {4, 4096, 1}).config.dtype, "float32");
}

TEST(PlanPredictionTest, FitsUpToTheLongestContext) {
  for (const bool gpu : {false, true}) {
    for (const int64_t batch : {1, 3}) {
      const PlanSubject subject = LlamaOn(gpu);
      const int64_t longest = PlanOf(subject, {2, 65'536, batch}).memory.longest;
      ASSERT_GT(longest, 65'536);
      const auto fits = [&](int64_t context) {
        const PlanSize size = {2, context, batch};
        return MemoryOf(subject, *SettleFor(subject, size), size).fits;
      };
      EXPECT_TRUE(fits(longest));
      EXPECT_FALSE(fits(longest + 2 * 4096));
    }
  }
}

TEST(PlanPredictionTest, SequencesBeyondAnIntegersBytesDoNotFit) {
  for (const bool gpu : {false, true}) {
    PlanSubject subject = LlamaOn(gpu);
    subject.config.max_num_seqs = 65'536;
    const PlanSize size = {1, kMaxPosition, 65'536};
    const PlanMemoryUse use = MemoryOf(subject, *SettleFor(subject, size), size);
    EXPECT_FALSE(use.fits);
    EXPECT_GT(use.needed(), int64_t{1} << 61);
  }
}

TEST(PlanPredictionTest, RanksThatShareProcessorsShareTheirMemory) {
  PlanSubject subject = LlamaOn(false);
  subject.hardware.processors_per_host = 2;
  const auto available = [&](int ranks) {
    const PlanSize size = {ranks, 4096, 1};
    return MemoryOf(subject, *SettleFor(subject, size), size).plan.available;
  };
  EXPECT_EQ(available(1), 150'000'000'000);
  EXPECT_EQ(available(2), 150'000'000'000);
  EXPECT_EQ(available(8), 37'500'000'000);
}

TEST(PlanPredictionTest, RefusesWhatTheConfigDoesNotAllow) {
  PlanSubject subject = LlamaOn(false);
  subject.config.max_model_len = 1000;
  EXPECT_THAT(ErrorOf(PlanJob(subject, {1, 1001, 1})), HasSubstr("add --set max_model_len=1001"));
  EXPECT_THAT(ErrorOf(PlanJob(subject, {1, 1000, 9})), HasSubstr("add --set max_num_seqs=9"));
}

TEST(PlanChoicesTest, TheBestIsNoWorse) {
  const auto choices = ChoosePlan(LlamaOn(true), {8, 65'536, 1}, [](int64_t, int64_t) {});
  ASSERT_TRUE(choices.ok()) << choices.status();
  ASSERT_EQ(choices->choices.size(), 3u);
  for (const PlanChoice& choice : choices->choices) {
    const PlanOption& best = choice.options[choice.best];
    EXPECT_LE(best.prompt_s / choices->now.prompt_s + best.token_s / choices->now.token_s, 2 + 1e-9)
        << choice.what;
  }
  // Eight blocks on eight ranks: a chunk of one block would leave seven idle.
  const PlanChoice& chunk = choices->choices[0];
  EXPECT_EQ(chunk.what, "prefill.chunk_tokens");
  EXPECT_EQ(chunk.now, "4096");
  EXPECT_EQ(chunk.options[0].value, "512");
  EXPECT_GT(chunk.options[0].prompt_s, 2 * choices->now.prompt_s);
}

TEST(PlanTargetTest, LooksAtPowersOfTwoAndWholeHosts) {
  EXPECT_THAT(RanksToSearch(3, 10), ElementsAre(1, 2, 3, 4, 6, 8, 9));
  EXPECT_THAT(RanksToSearch(1000, 4), ElementsAre(1, 2, 4));
}

// Prompts take 100 s over the ranks; a rank has room for a 20th of the job.
PlanTry PerfectScaling(int ranks) {
  return {.ranks = ranks,
          .fits = ranks >= 20,
          .prompt_s = 100.0 / ranks,
          .token_s = 0.001 * ranks,
          .needed = 2000 / ranks,
          .usable = 100};
}

PlanSearch SearchOf(const PlanTarget& target, int64_t ranks_per_host) {
  const auto search =
      SearchRanks(target, RanksToSearch(ranks_per_host, 256),
                  [](int r) -> absl::StatusOr<PlanTry> { return PerfectScaling(r); });
  EXPECT_TRUE(search.ok()) << search.status();
  return *search;
}

TEST(PlanTargetTest, FindsTheSmallest) {
  const std::vector<int> candidates = RanksToSearch(6, 256);
  for (const double prompt_s : {8.0, 5.0, 4.9, 3.0, 1.0, 0.5}) {
    const auto smallest = std::find_if(candidates.begin(), candidates.end(), [&](int ranks) {
      return ranks >= 20 && 100.0 / ranks <= prompt_s;
    });
    const PlanSearch search = SearchOf({.prompt_s = prompt_s}, 6);
    ASSERT_TRUE(search.found.has_value()) << prompt_s;
    EXPECT_EQ(search.found->ranks, *smallest) << prompt_s;
    for (const PlanTry& made : search.tries) EXPECT_EQ(made.meets, made.ranks >= *smallest);
    EXPECT_LT(search.tries.size(), 16u);
  }
}

TEST(PlanTargetTest, SaysWhatBinds) {
  const auto limit = [](const PlanTarget& target) {
    const PlanSearch search = SearchOf(target, 8);
    EXPECT_FALSE(search.found.has_value());
    return search.limit;
  };
  EXPECT_EQ(limit({.prompt_s = 0.1}), "the time to first token: at best 0.391 s, on 256 ranks");
  EXPECT_EQ(limit({.token_s = 0.001}), "the time of a token: at best 32 ms, on 32 ranks");
  EXPECT_THAT(limit({.prompt_s = 0.5, .token_s = 0.05}), HasSubstr("both times together"));
  const auto small =
      SearchRanks({.prompt_s = 9}, RanksToSearch(8, 16),
                  [](int r) -> absl::StatusOr<PlanTry> { return PerfectScaling(r); });
  EXPECT_EQ(small->limit, "memory: on 16 ranks each still needs 125 B and may use 100 B");
}

TEST(PlanSimulateTest, HistogramsMoveFewerBytesToManyRanks) {
  const auto rows = SimulateRanks(LlamaOn(true), {8, 256}, 1'000'000, 1, [](int64_t, int64_t) {});
  ASSERT_TRUE(rows.ok()) << rows.status();
  ASSERT_EQ(rows->size(), 4u);
  EXPECT_EQ((*rows)[3].chunk_tokens, 256 * 512);
  EXPECT_TRUE((*rows)[2].token.calls.contains("select.candidates"));
  EXPECT_FALSE((*rows)[3].token.calls.contains("select.candidates"));
  const int merge = static_cast<int>(Phase::kCandidateMerge);
  EXPECT_LT((*rows)[3].chunk.mean[merge], (*rows)[2].chunk.mean[merge]);
  const std::string table = SimulationTable(*rows);
  EXPECT_THAT(table, HasSubstr("select.winners"));
  EXPECT_THAT(table, Not(HasSubstr("cannot")));
}

// Rows with all_gather, then histogram, of each number of ranks.
std::vector<SimulatedRanks> SimulateToken(const PlanSubject& subject, std::vector<int64_t> ranks) {
  const auto rows = SimulateRanks(subject, ranks, 20'000, 1, [](int64_t, int64_t) {});
  EXPECT_TRUE(rows.ok()) << rows.status();
  return *rows;
}

TEST(PlanSimulateTest, TellsWhichMergeRuns) {
  PlanSubject subject = LlamaOn(true);
  std::vector<SimulatedRanks> rows = SimulateToken(subject, {8, 1025});
  EXPECT_TRUE(rows[0].token_runs && rows[0].chunk_runs && rows[0].can_run);
  EXPECT_FALSE(rows[1].token_runs || rows[1].chunk_runs);
  EXPECT_FALSE(rows[2].token_runs || rows[2].chunk_runs || rows[2].can_run);
  EXPECT_TRUE(rows[3].token_runs && rows[3].chunk_runs && rows[3].can_run);
  EXPECT_THAT(SimulationTable(rows), HasSubstr("cannot: no kernel merges what more than 1024"));
  subject.config.parallel.selection_merge = SelectionMerge::kHistogram;
  EXPECT_TRUE(SimulateToken(subject, {8})[1].token_runs);
  subject.config.attention = Attention::kDense;
  EXPECT_FALSE(SimulateToken(subject, {8})[1].token_runs);
  EXPECT_TRUE(SimulateToken(LlamaOn(false), {1025})[0].can_run);
}

TEST(PlanSimulateTest, NothingIsMergedWithoutFarTokens) {
  for (const bool is_gpu : {false, true}) {
    const auto rows = SimulateRanks(LlamaOn(is_gpu), {8}, 100, 1, [](int64_t, int64_t) {});
    ASSERT_TRUE(rows.ok()) << rows.status();
    for (const SimulatedRanks& row : *rows) {
      EXPECT_FALSE(row.chunk_runs);
      EXPECT_FALSE(row.chunk.calls.contains("select.candidates"));
      EXPECT_FALSE(row.chunk.calls.contains("select.winners"));
    }
  }
}

TEST(PlanTaskTest, RefusesBeforeAnythingIsPredicted) {
  PlanSubject subject = LlamaOn(true);
  int predicted = 0;
  const auto error_of = [&](const PlanTask& task) {
    return ErrorOf(RunPlan(task, subject, [&](int64_t, int64_t) { ++predicted; }));
  };
  subject.config.parallel.selection_merge = SelectionMerge::kAllGather;
  EXPECT_THAT(error_of({.ranks = {1, 2048}, .contexts = {4096}}),
              HasSubstr("at most 1024 GPUs, not 2048: use auto or histogram"));
  subject.config.max_model_len = 5000;
  PlanTask task = {.ranks = {1}, .contexts = {4096, 6000}};
  EXPECT_THAT(error_of(task), HasSubstr("add --set max_model_len=6000"));
  task.simulate = true;
  EXPECT_THAT(error_of(task), HasSubstr("add --set max_model_len=6000"));
  task = {.contexts = {4096, 6000}, .target = {.prompt_s = 1}};
  EXPECT_THAT(error_of(task), HasSubstr("add --set max_model_len=6000"));
  EXPECT_EQ(predicted, 0);
  EXPECT_EQ(error_of({.ranks = {1}, .contexts = {4096}}), "");
  EXPECT_GT(predicted, 0);
}

// Stripes of more than four ranks are shorter than what proximity reaches.
TEST(PlanTaskTest, ATargetLeavesOutRanksThatTheConfigIsNotFor) {
  PlanSubject subject = LlamaOn(true);
  subject.config.esa.proximity = 1000;
  int predicted = 0;
  const auto outcome = RunPlan({.contexts = {8192}, .target = {.prompt_s = 1e-9}}, subject,
                               [&](int64_t, int64_t) { ++predicted; });
  ASSERT_TRUE(outcome.ok()) << outcome.status();
  EXPECT_FALSE(outcome->good);
  EXPECT_EQ(predicted, 3);
  EXPECT_THAT(outcome->text, HasSubstr("none up to 4 ranks meets the target"));
  EXPECT_THAT(outcome->text, HasSubstr("8 ranks are refused: `esa.proximity` (1000)"));
}

TEST(PlanHardwareTest, FindsProfilesByNameOrFile) {
  const std::string directory = ::testing::TempDir() + "/plan_hardware";
  std::filesystem::create_directories(directory);
  std::ofstream(directory + "/one.yaml") << "name: one\n";
  std::ofstream(directory + "/links.yaml") << "\n";
  EXPECT_EQ(*FindHardware("one", {directory}), directory + "/one.yaml");
  EXPECT_EQ(*FindHardware("some/file", {directory}), "some/file");
  EXPECT_THAT(ErrorOf(FindHardware("", {directory})),
              HasSubstr("--hardware is needed: give a file, or one of one"));
  const std::string message = ErrorOf(FindHardware("links", {directory}));
  EXPECT_THAT(message, HasSubstr("there is no profile `links`: give a file, or one of"));
  EXPECT_THAT(message, HasSubstr("one"));
}

// One rank per host, a measured gather of two sizes.
FitInput Gathers() {
  FitInput input;
  for (const int64_t bytes : {1000, 1'000'000}) {
    MeasuredCall call;
    call.of = {"decode: candidates", CollectiveKind::kAllGather, bytes};
    call.ranks = 2;
    call.seconds = 2e-5 + static_cast<double>(bytes) / 5e8;
    input.calls.push_back(call);
  }
  return input;
}

TEST(PlanFitTest, FindsTheLinkBehindGathers) {
  HardwareProfile start;
  start.ranks_per_host = 8;
  start.between_hosts = {5e-6, 7e9};
  const auto report = FitHardware(start, Gathers(), {}, "");
  ASSERT_TRUE(report.ok()) << report.status();
  EXPECT_NEAR(report->profile.within_host.bytes_per_s, 5e8, 1e5);
  EXPECT_EQ(report->profile.between_hosts.bytes_per_s, 7e9);  // nothing speaks of it
  EXPECT_NEAR(report->profile.within_host.latency_s + report->profile.call_s, 2e-5, 1e-8);
  ASSERT_EQ(report->parts.size(), 2u);
  EXPECT_NEAR(report->parts[0].relative(), 0, 1e-6);
  EXPECT_FALSE(FitHardware(start, {}, {}, "").ok());
}

// A point of a study on one rank, as a machine of that profile would measure it.
ScalePoint MeasuredOn(const HardwareProfile& profile, int64_t context) {
  PlanSubject subject = LlamaOn(profile.is_gpu);
  subject.config.model = std::string(LONGSPAN_SOURCE_DIR) + "/configs/shapes/llama3-8b";
  const PlanSize size = {1, context, 1};
  const Config config = *SettleFor(subject, size);
  const JobShape job = ShapeOf(subject, config, 1);
  ScalePoint point;
  point.key = {"esa", context, 1, 1};
  point.config = {
      {"device", config.device}, {"model", config.model}, {"parallel.stripe_tokens", "4096"}};
  point.hosts = {"host"};
  point.slots = {1};
  point.decode_s = {PredictDecode(profile, job, {context + 1}, DrawUniformly(job, 1)).seconds};
  point.prefill_s = {PredictPrompt(profile, job, context, DrawUniformly(job, 1), 1000).seconds};
  RankPhases& phases = point.phases.emplace_back();
  const auto add = [](const Prediction& prediction, StagePhases* stage) {
    ++stage->steps;
    for (int p = 0; p < kNumPhases; ++p) stage->seconds[p] += prediction.mean[p];
  };
  add(PredictDecode(profile, job, {context + 1}, DrawUniformly(job, 1)), &phases.decode);
  for (int64_t begin = 0; begin < context; begin += 4096) {
    const ChunkShape chunk = {{begin, begin + 4096}, context};
    const bool is_last = begin + 4096 == context;
    add(PredictChunk(profile, job, chunk, is_last, DrawUniformly(job, 1)), &phases.prefill);
  }
  return point;
}

TEST(PlanFitTest, FindsTheMachineBehindAStudy) {
  HardwareProfile start = LlamaOn(false).hardware;
  HardwareProfile truth = start;
  truth.step_s = 2e-3;
  for (int k = 0; k < kNumKernels; ++k) truth.kernels[k].efficiency = 0.25 + 0.0625 * (k % 4);
  // One phase: nothing tells their shares but the profile that the fit starts from.
  for (const Kernel kernel : {Kernel::kScore, Kernel::kScoreToken, Kernel::kSelect}) {
    truth.kernels[static_cast<int>(kernel)].efficiency = 0.5;
  }
  FitInput input;
  for (const int64_t context : {8192, 16384, 32768}) {
    input.points.push_back(MeasuredOn(truth, context));
  }
  const auto report = FitHardware(start, input, *ParseHoldout("32768/1"), "");
  ASSERT_TRUE(report.ok()) << report.status();
  ASSERT_EQ(report->checks.size(), 6u);
  for (const FitCheck& check : report->checks) {
    EXPECT_NEAR(check.error.relative(), 0, 0.02) << check.error.what;
  }
  EXPECT_EQ(report->checks[3].not_fitted, "");
  EXPECT_EQ(report->checks[4].not_fitted, "held out");
  EXPECT_NEAR(report->profile.kernel(Kernel::kLinear).efficiency,
              truth.kernel(Kernel::kLinear).efficiency, 0.01);
  EXPECT_NEAR(report->profile.kernel(Kernel::kAttend).efficiency,
              truth.kernel(Kernel::kAttend).efficiency, 0.01);
  EXPECT_THAT(FitTable(*report), HasSubstr("held out      median"));

  input.points[0].slots = {0};  // as if its rank shared a core
  const auto shared = FitHardware(start, input, {}, "");
  ASSERT_TRUE(shared.ok()) << shared.status();
  EXPECT_EQ(shared->checks[0].not_fitted, "shares cores");
  input.points.resize(1);
  EXPECT_THAT(ErrorOf(FitHardware(start, input, {}, "")), HasSubstr("nothing is left to fit"));
}

TEST(PlanFitTest, TakesEventsOutOfAGpusToken) {
  const HardwareProfile truth = LlamaOn(true).hardware;
  FitInput input;
  for (const int64_t context : {8192, 16384}) {
    ScalePoint& point = input.points.emplace_back(MeasuredOn(truth, context));
    StagePhases& counted = point.phases[0].decode;
    for (double& seconds : counted.seconds) seconds *= 1.25;
    counted.wall_s = 1.25 * point.decode_s[0];
  }
  const auto report = FitHardware(truth, input, {}, "");
  ASSERT_TRUE(report.ok()) << report.status();
  for (const FitCheck& check : report->checks) {
    EXPECT_NEAR(check.error.relative(), 0, 0.02) << check.error.what;
  }
}

TEST(PlanFitTest, ReadsReportsOfCollectives) {
  const std::string path = ::testing::TempDir() + "/plan_calls";
  const auto read = [&](const std::string& text) -> absl::StatusOr<FitInput> {
    std::ofstream(path) << text;
    FitInput input;
    const absl::Status status = ReadFitFile(path, &input);
    if (!status.ok()) return status;
    return input;
  };
  const auto csv = read(
      "benchmark,name,shape,batch,context,runs,median_us,ranks\n"
      "collectives,decode: partials,4096 bytes of each rank,1,0,41,12.5,2\n"
      "collectives,chunk: maxima,\"1024 numbers, graph\",1,0,41,30,2\n"
      "collectives,chunk: maxima,\"1024 numbers, called\",1,0,41,20,2\n"
      "collectives,decode: histogram,8192 counts,1,0,41,25,2\n");
  ASSERT_TRUE(csv.ok()) << csv.status();
  ASSERT_EQ(csv->calls.size(), 3u);
  EXPECT_EQ(csv->calls[0].of.kind, CollectiveKind::kAllReduceMax);
  EXPECT_EQ(csv->calls[0].of.bytes, 4096);
  EXPECT_DOUBLE_EQ(csv->calls[0].seconds, 20e-6);  // the faster way
  EXPECT_EQ(csv->calls[1].of.kind, CollectiveKind::kAllReduceSum);
  EXPECT_EQ(csv->calls[1].of.bytes, 32768);
  EXPECT_EQ(csv->calls[2].of.kind, CollectiveKind::kAllGather);

  const auto json = read(R"({"benchmark": "collectives", "ranks": 4, "rows": [
      {"name": "ring step", "shape": "65536 bytes to the next rank", "median_us": 9}]})");
  ASSERT_TRUE(json.ok()) << json.status();
  ASSERT_EQ(json->calls.size(), 1u);
  EXPECT_EQ(json->calls[0].of.kind, CollectiveKind::kExchange);
  EXPECT_EQ(json->calls[0].ranks, 4);

  const auto error = [&](const std::string& text) { return ErrorOf(read(text)); };
  EXPECT_THAT(error(""), HasSubstr("is empty; expected lines of a study's points.jsonl"));
  EXPECT_THAT(error("hello"), HasSubstr("is neither CSV nor JSON"));
  EXPECT_THAT(error("{\"ranks\": 1}\n"), HasSubstr("plan_calls:1: is no point of a study"));
  EXPECT_THAT(error("{\n"), HasSubstr("plan_calls:1: not valid JSON"));
  EXPECT_THAT(error("{"), HasSubstr("has no whole line"));
  EXPECT_THAT(error(R"({"benchmark": "decode"})"), HasSubstr("is a report of bench decode"));
  EXPECT_THAT(error("benchmark,name\n"), HasSubstr("has no column shape"));
  EXPECT_THAT(error("benchmark,name,shape,median_us,ranks\nkernels,a,b,1,2\n"),
              HasSubstr("line 2 is no collective"));
}

TEST(PlanFitTest, HoldsPointsOut) {
  ScalePoint point;
  point.key = {"esa", 65'536, 1, 4};
  const auto holdout = ParseHoldout("3");
  ASSERT_TRUE(holdout.ok());
  EXPECT_FALSE(holdout->Holds(1, point));
  EXPECT_TRUE(holdout->Holds(2, point));
  const auto listed = ParseHoldout("1024/2,65536/4");
  ASSERT_TRUE(listed.ok());
  EXPECT_TRUE(listed->Holds(0, point));
  point.key.ranks = 2;
  EXPECT_FALSE(listed->Holds(0, point));
  for (const char* text : {"0", "1", "x", "1024/", "/4", "1024/2,"}) {
    EXPECT_FALSE(ParseHoldout(text).ok()) << text;
  }
}

}  // namespace
}  // namespace longspan
