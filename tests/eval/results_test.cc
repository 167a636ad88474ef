#include "eval/results.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "absl/strings/str_cat.h"
#include "eval/result_store.h"
#include "tests/runtime/file_testing.h"

namespace longspan {
namespace {

using ::longspan::testing::Fails;
using ::longspan::testing::IsOk;
using ::longspan::testing::ReadFile;
using ::longspan::testing::TempDir;
using ::longspan::testing::WriteFile;

EvalResult ResultOf(const std::string& task, const std::string& method, const CaseId& id,
                    double score) {
  EvalResult result = {task, method, id, "Who?", "Ann\n", {"Ann", "\"B\""}};
  result.score = score;
  result.prompt_tokens = 100;
  result.answer_tokens = 3;
  return result;
}

EvalResult ScoredPrompt(int64_t index, double nats) {
  EvalResult result = ResultOf("perplexity/x", "dense", {64, std::nullopt, index}, nats);
  result.metric = EvalMetric::kNats;
  result.scored_tokens = 63;
  result.nats_by_part = {nats, 2 * nats};
  return result;
}

nlohmann::ordered_json Description(int seed) {
  return {{"settings", {{"seed", seed}, {"cases_of_a_method", 4}}},
          {"methods", {{"dense", {{"attention", "dense"}}}}},
          {"about", {{"model", "m"}}}};
}

TEST(ResultsTest, CellsHaveMeansAndIntervals) {
  std::vector<EvalResult> results;
  for (const double score : {1.0, 0.0, 1.0, 0.5}) {
    const auto index = static_cast<int64_t>(results.size());
    results.push_back(ResultOf("passkey", "dense", {64, index % 2 == 0 ? 0.0 : 1.0, index}, score));
  }
  results.push_back(ResultOf("passkey", "dense", {32, 0.5, 0}, 1));
  const std::vector<EvalCell> cells = CellsByLength(results);
  ASSERT_EQ(cells.size(), 2);
  EXPECT_EQ(cells[0].length, 32);
  EXPECT_EQ(cells[1].cases, 4);
  EXPECT_DOUBLE_EQ(cells[1].score, 0.625);
  EXPECT_DOUBLE_EQ(cells[1].interval.low, WilsonInterval(0.625, 4).low);
  EXPECT_EQ(ScoreText(cells[1]), "62.5%");
  const std::vector<EvalCell> by_depth = CellsByDepth(results);
  ASSERT_EQ(by_depth.size(), 3);
  EXPECT_EQ(by_depth[1].depth, 0);
  EXPECT_EQ(by_depth[1].score, 1);
  EXPECT_EQ(by_depth[2].score, 0.25);

  const auto summary = SummaryJson({Description(1), results, {}});
  EXPECT_EQ(summary["cases"], 5);
  EXPECT_EQ(summary["expected_cases"], 4);
  EXPECT_EQ(summary["cells"].size(), 2);
  EXPECT_EQ(summary["cells"][1]["cases"], 4);
  EXPECT_EQ(summary["cells_by_depth"].size(), 3);
}

TEST(ResultsTest, PerplexityHasStudentsInterval) {
  const std::vector<EvalResult> results = {ScoredPrompt(0, 1), ScoredPrompt(1, 2),
                                           ScoredPrompt(2, 3)};
  const std::vector<EvalCell> cells = CellsByLength(results);
  ASSERT_EQ(cells.size(), 1);
  EXPECT_EQ(cells[0].metric, EvalMetric::kNats);
  EXPECT_EQ(cells[0].scored_tokens, 63);
  EXPECT_EQ(cells[0].nats_by_part, (std::vector<double>{2, 4}));
  EXPECT_EQ(ScoreText(cells[0]), "7.39");
  EXPECT_TRUE(CellsByDepth(results).empty());
  EXPECT_EQ(IntervalText(CellsByLength(absl::MakeSpan(results).first(1))[0]), "unknown");
  EXPECT_TRUE(SummaryJson({Description(1), {results[0]}, {}})["cells"][0]["low"].is_null());
}

TEST(ResultsTest, LossesMayBeInfinite) {
  constexpr double kInfinity = std::numeric_limits<double>::infinity();
  for (const double nats : {kInfinity, std::nan("")}) {
    const EvalResult result = ScoredPrompt(0, nats);
    const auto again = ParseEvalResult(nlohmann::json::parse(ToJson(result).dump()));
    ASSERT_THAT(again, IsOk());
    EXPECT_EQ(std::isnan(again->score), std::isnan(nats));
    EXPECT_FALSE(std::isfinite(again->score));
    EXPECT_FALSE(std::isfinite(again->nats_by_part[1]));
    const std::vector<EvalCell> cells = CellsByLength({result, ScoredPrompt(1, 1)});
    EXPECT_EQ(IntervalText(cells[0]), "unknown");
    EXPECT_TRUE(SummaryJson({Description(1), {result}, {}})["cells"][0]["score"].is_null());
  }
}

TEST(ResultsTest, CostsAddUp) {
  const std::vector<EvalCost> costs = {{"dense", 64, 1, 60, 3, 1.5, 2, 100, 1200},
                                       {"dense", 32, 1, 30, 3, 1, 2, 30, 50},
                                       {"dense", 64, 2, 120, 6, 3, 4, 300, 800}};
  const std::vector<EvalCost> sums = AddedUp(costs);
  ASSERT_EQ(sums.size(), 2);
  EXPECT_EQ(sums[0].cases, 3);
  EXPECT_DOUBLE_EQ(sums[0].attended_share(), 400.0 / 2000);
  EXPECT_DOUBLE_EQ(sums[0].seconds, 4.5);
  EXPECT_EQ(sums[0].ranks, 4);
  EXPECT_EQ(ToJson(*ParseEvalCost(nlohmann::json::parse(ToJson(costs[0]).dump()))),
            ToJson(costs[0]));
  EXPECT_THAT(ParseEvalCost({}), Fails(absl::StatusCode::kInvalidArgument, "is no cost"));
}

TEST(ResultStoreTest, GoesOnWhereItStopped) {
  const TempDir directory;
  const nlohmann::ordered_json settings = Description(1);
  const EvalResult first = ResultOf("passkey", "dense", {64, 0.5, 0}, 1);
  {
    auto store = ResultStore::Open(directory / "out", settings);
    ASSERT_THAT(store, IsOk());
    EXPECT_THAT((*store)->Add(first), IsOk());
    EXPECT_THAT((*store)->Add(EvalCost{"dense", 64, 1}), IsOk());
    EXPECT_THAT(ResultStore::Open(directory / "out", settings),
                Fails(absl::StatusCode::kFailedPrecondition, "another process"));
  }
  const std::string path = directory / "out/cases.jsonl";
  const std::string line = ReadFile(path);
  WriteFile(path, line + line.substr(0, 20));  // a crash
  auto store = ResultStore::Open(directory / "out", settings);
  ASSERT_THAT(store, IsOk());
  ASSERT_EQ((*store)->data().results.size(), 1);
  EXPECT_EQ(ToJson((*store)->data().results[0]), ToJson(first));
  EXPECT_EQ((*store)->data().costs.size(), 1);
  EXPECT_TRUE((*store)->Has("passkey", "dense", {64, 0.5, 0}));
  EXPECT_FALSE((*store)->Has("passkey", "dense", {64, std::nullopt, 0}));
  EXPECT_FALSE((*store)->Has("passkey", "streaming", {64, 0.5, 0}));
  EXPECT_THAT((*store)->Add(ResultOf("passkey", "dense", {64, 0.5, 1}, 0)), IsOk());
  EXPECT_EQ(ReadFile(path).find(line), 0);
}

TEST(ResultStoreTest, ReadsWhatIsThere) {
  const TempDir directory;
  EXPECT_THAT(ResultStore::Read(directory / "out"),
              Fails(absl::StatusCode::kNotFound, "out/eval.json"));
  auto store = ResultStore::Open(directory / "out", Description(1));
  EXPECT_THAT((*store)->Add(ScoredPrompt(0, 1)), IsOk());
  const auto data = ResultStore::Read(directory / "out");  // while it is added to
  ASSERT_THAT(data, IsOk());
  EXPECT_EQ(data->results.size(), 1);
  EXPECT_EQ(data->description, Description(1));
  WriteFile(directory / "out/eval.json", "{}");
  EXPECT_THAT(ResultStore::Read(directory / "out"),
              Fails(absl::StatusCode::kDataLoss, "eval.json: is not an evaluation"));
}

TEST(ResultStoreTest, MethodsMayBeAdded) {
  const TempDir directory;
  const std::string out = directory / "out";
  const auto open = [&](nlohmann::ordered_json methods) {
    nlohmann::ordered_json description = Description(1);
    description["methods"] = std::move(methods);
    return ResultStore::Open(out, description);
  };
  EXPECT_THAT((*open({{"dense", {{"k", 1}}}}))->Add(ResultOf("passkey", "dense", {64}, 1)), IsOk());
  ASSERT_THAT(open({{"block", {{"k", 2}}}}), IsOk());
  EXPECT_THAT(open({{"dense", {{"k", 2}}}}),
              Fails(absl::StatusCode::kFailedPrecondition, "of dense `k` is 1 there and 2 here"));
  const auto store = open({{"dense", {{"k", 1}}}});
  ASSERT_THAT(store, IsOk());
  // `block` never had a case: it is not waited for, and may come with other settings.
  EXPECT_EQ((*store)->data().expected_cases(), 4);
}

TEST(ResultStoreTest, MethodsWithoutCasesMayChange) {
  const TempDir directory;
  const std::string out = directory / "out";
  const auto open = [&](nlohmann::ordered_json methods) {
    nlohmann::ordered_json description = Description(1);
    description["methods"] = std::move(methods);
    return ResultStore::Open(out, description);
  };
  EXPECT_THAT((*open({{"dense", {{"k", 1}}}}))->Add(ResultOf("passkey", "dense", {64}, 1)), IsOk());
  ASSERT_THAT(open({{"dense", {{"k", 1}}}, {"block", {{"k", 2}}}}), IsOk());
  const auto store = open({{"block", {{"k", 3}}}});
  ASSERT_THAT(store, IsOk());
  const nlohmann::ordered_json both = {{"dense", {{"k", 1}}}, {"block", {{"k", 3}}}};
  EXPECT_EQ((*store)->data().description["methods"], both);
}

TEST(ResultStoreTest, CasesOfAnUnknownEvaluationAreNoOnes) {
  const TempDir directory;
  const std::string out = directory / "out";
  EXPECT_THAT((*ResultStore::Open(out, Description(1)))->Add(ScoredPrompt(0, 1)), IsOk());
  std::filesystem::remove(out + "/eval.json");
  EXPECT_THAT(ResultStore::Open(out, Description(1)),
              Fails(absl::StatusCode::kFailedPrecondition, "has cases, and of which evaluation"));
}

TEST(ResultStoreTest, RefusesWhatIsNotItsOwn) {
  const TempDir directory;
  const std::string out = directory / "out";
  ASSERT_THAT(ResultStore::Open(out, Description(1)), IsOk());
  {
    const auto other = ResultStore::Open(out, Description(2));  // no case was of the first
    ASSERT_THAT(other, IsOk());
    EXPECT_THAT((*other)->Add(ScoredPrompt(0, 1)), IsOk());
  }
  WriteFile(out + "/cases.jsonl", ReadFile(out + "/cases.jsonl") + "{");
  const std::string before = ReadFile(out + "/cases.jsonl");
  EXPECT_THAT(ResultStore::Open(out, Description(1)),
              Fails(absl::StatusCode::kFailedPrecondition, "`seed` is 2 there and 1 here"));
  EXPECT_EQ(ReadFile(out + "/cases.jsonl"), before);
  WriteFile(out + "/cases.jsonl", "{\"task\": \"passkey\"}\n");
  EXPECT_THAT(ResultStore::Open(out, Description(2)),
              Fails(absl::StatusCode::kDataLoss, "cases.jsonl:1: is no case"));
  WriteFile(directory / "file", "");
  EXPECT_THAT(ResultStore::Open(directory / "file/out", {}),
              Fails(absl::StatusCode::kInternal, "cannot be made"));
}

}  // namespace
}  // namespace longspan
