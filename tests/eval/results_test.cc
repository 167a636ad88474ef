#include "eval/results.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>

#include "absl/strings/str_cat.h"
#include "eval/methods.h"
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
  EvalResult result = {task, method, id, "Who?", "Ann\n", {"Ann", "\"B\""}, score, 100, 3};
  return result;
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

  const auto summary = SummaryJson({{"seed", 1}}, results);
  EXPECT_EQ(summary["cells"].size(), 2);
  EXPECT_EQ(summary["cells"][1]["cases"], 4);
  EXPECT_EQ(summary["cells_by_depth"].size(), 3);
}

TEST(ResultsTest, PerplexityHasStudentsInterval) {
  std::vector<EvalResult> results;
  for (const double nats : {1.0, 2.0, 3.0}) {
    results.push_back(ResultOf("perplexity/x", "dense",
                               {64, std::nullopt, static_cast<int64_t>(results.size())}, nats));
    results.back().nats_by_part = {nats, 2 * nats};
  }
  const std::vector<EvalCell> cells = CellsByLength(results);
  ASSERT_EQ(cells.size(), 1);
  EXPECT_EQ(cells[0].metric, EvalMetric::kNegative);
  EXPECT_EQ(cells[0].nats_by_part, (std::vector<double>{2, 4}));
  EXPECT_EQ(ScoreText(cells[0]), "7.39");
  EXPECT_TRUE(CellsByDepth(results).empty());
  EXPECT_EQ(IntervalText(CellsByLength(absl::MakeSpan(results).first(1))[0]), "unknown");
  EXPECT_TRUE(SummaryJson({}, absl::MakeSpan(results).first(1))["cells"][0]["low"].is_null());
}

TEST(ResultStoreTest, GoesOnWhereItStopped) {
  const TempDir directory;
  const nlohmann::ordered_json settings = {{"seed", 1}, {"length", {64}}};
  const EvalResult first = ResultOf("passkey", "dense", {64, 0.5, 0}, 1);
  {
    auto store = ResultStore::Open(directory / "out", settings);
    ASSERT_THAT(store, IsOk());
    EXPECT_THAT((*store)->Add(first), IsOk());
    EXPECT_THAT(ResultStore::Open(directory / "out", settings),
                Fails(absl::StatusCode::kFailedPrecondition, "another process"));
  }
  const std::string path = directory / "out/cases.jsonl";
  const std::string line = ReadFile(path);
  WriteFile(path, line + line.substr(0, 20));  // a crash
  auto store = ResultStore::Open(directory / "out", settings);
  ASSERT_THAT(store, IsOk());
  ASSERT_EQ((*store)->results().size(), 1);
  EXPECT_EQ(ToJson((*store)->results()[0]), ToJson(first));
  EXPECT_TRUE((*store)->Has("passkey", "dense", {64, 0.5, 0}));
  EXPECT_FALSE((*store)->Has("passkey", "dense", {64, std::nullopt, 0}));
  EXPECT_FALSE((*store)->Has("passkey", "streaming", {64, 0.5, 0}));
  EXPECT_THAT((*store)->Add(ResultOf("passkey", "dense", {64, 0.5, 1}, 0)), IsOk());
  EXPECT_EQ(ReadFile(path).find(line), 0);
}

TEST(ResultStoreTest, RefusesWhatIsNotItsOwn) {
  const TempDir directory;
  const std::string out = directory / "out";
  ASSERT_THAT(ResultStore::Open(out, {{"seed", 1}}), IsOk());
  EXPECT_THAT(ResultStore::Open(out, {{"seed", 2}}),
              Fails(absl::StatusCode::kFailedPrecondition, "`seed` is 1 there and 2 here"));
  WriteFile(out + "/cases.jsonl", "{\"task\": \"passkey\"}\n");
  EXPECT_THAT(ResultStore::Open(out, {{"seed", 1}}),
              Fails(absl::StatusCode::kDataLoss, "cases.jsonl:1: is no case"));
  WriteFile(directory / "file", "");
  EXPECT_THAT(ResultStore::Open(directory / "file/out", {}),
              Fails(absl::StatusCode::kInternal, "cannot be made"));
}

TEST(MethodsTest, AttendToTheSameNumberOfTokens) {
  Config config;
  config.model = LONGSPAN_SOURCE_DIR "/models/needle";
  config.esa = {.initial_tokens = 32, .local_tokens = 512, .top_k = 256, .selection_block = 256};
  ASSERT_THAT(ResolveConfig(1, &config), IsOk());
  for (const EvalMethod& method : EvalMethods()) {
    const auto changed = MethodConfig(config, method, 5000);
    ASSERT_THAT(changed, IsOk());
    EXPECT_EQ(changed->max_model_len, 5000);
    if (changed->attention == Attention::kDense) continue;
    const EsaConfig& esa = changed->esa;
    const int64_t selected = changed->attention == Attention::kEsa ? esa.top_k : 0;
    EXPECT_EQ(esa.initial_tokens + esa.local_tokens + selected, 32 + 512 + 256) << method.name;
    EXPECT_GE(esa.far_position, esa.local_tokens);
  }
}

TEST(MethodsTest, BadOnesAreRefused) {
  constexpr auto kInvalid = absl::StatusCode::kInvalidArgument;
  EXPECT_THAT(ParseEvalMethods("dense,sparse"),
              Fails(kInvalid, "there is no method `sparse`; there are dense, dense_ntk"));
  EXPECT_THAT(ParseEvalMethods("dense,dense"), Fails(kInvalid, "names dense twice"));
  Config config;
  config.kv_cache_score_dtype = "fp8_e4m3";
  ASSERT_THAT(ResolveConfig(1, &config), IsOk());
  EXPECT_THAT(MethodConfig(config, **ParseEvalMethods("esa_exact")->begin(), 100),
              Fails(kInvalid, "--method esa_exact: `kv_cache.score_dtype`"));
}

}  // namespace
}  // namespace longspan
