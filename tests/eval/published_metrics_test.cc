#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <map>
#include <nlohmann/json.hpp>
#include <string>

#include "absl/strings/str_cat.h"
#include "eval/infinitebench.h"
#include "eval/longbench.h"
#include "eval/rouge.h"
#include "eval/text_metrics.h"
#include "tests/eval/eval_testing.h"
#include "tests/runtime/file_testing.h"

// Answers and what the published code gives them (tools/make_metric_fixtures.py).
namespace longspan {
namespace {

using ::longspan::testing::EvalMaterial;
using ::longspan::testing::EvalTokenizers;
using ::longspan::testing::IsOk;
using ::longspan::testing::ReadFile;
using ::longspan::testing::TempDir;
using ::longspan::testing::WriteFile;

constexpr int64_t kLong = 4096;

class PublishedMetricsTest : public ::testing::Test {
 protected:
  PublishedMetricsTest() : tokenizer_(std::move(EvalTokenizers()[1].second)), made_(*tokenizer_) {
    const auto json =
        nlohmann::json::parse(ReadFile(LONGSPAN_SOURCE_DIR "/tests/eval/testdata/metrics.json"));
    cases_ = json.at("cases");
  }

  // The data set with the case's line.
  absl::StatusOr<CaseSource> Open(const nlohmann::json& one) {
    nlohmann::json line = one.at("line");
    line.emplace("context", "x");
    line.emplace("input", "y");
    const bool is_long = one.contains("longbench");
    const std::string name = one.at(is_long ? "longbench" : "infinitebench");
    if (is_long) line["dataset"] = name;
    const std::string path = directory_ / name + ".jsonl";
    WriteFile(path, line.dump() + "\n");
    return is_long ? OpenLongBench(path, made_.material) : OpenInfiniteBench(path, made_.material);
  }

  TempDir directory_;
  std::unique_ptr<Tokenizer> tokenizer_;
  EvalMaterial made_;
  nlohmann::json cases_;
};

TEST_F(PublishedMetricsTest, OfPackages) {
  const std::map<std::string, double (*)(absl::string_view, absl::string_view)> metrics = {
      {"RougeL", RougeL}, {"RougeLsum", RougeLsum}, {"Similarity", Similarity}};
  std::map<std::string, int> compared;
  for (const nlohmann::json& one : cases_) {
    if (!one.contains("metric")) continue;
    const std::string name = one.at("metric"), answer = one.at("answer"),
                      reference = one.at("reference");
    // `rouge` adds 1e-8 to a divisor.
    EXPECT_NEAR(metrics.at(name)(answer, reference), one.at("score"), 1e-7)
        << name << ": " << one.dump();
    ++compared[name];
  }
  for (const auto& [name, metric] : metrics) EXPECT_GT(compared[name], 30) << name;
}

TEST_F(PublishedMetricsTest, OfDataSets) {
  int compared = 0;
  for (const nlohmann::json& one : cases_) {
    if (one.contains("metric") || !one.contains("score")) continue;
    SCOPED_TRACE(one.dump());
    const auto source = Open(one);
    ASSERT_THAT(source, IsOk());
    const auto asked = source->make({kLong, std::nullopt, 0});
    ASSERT_THAT(asked, IsOk());
    // LongBench rounds to a hundredth of a percent.
    EXPECT_NEAR(source->score(one.at("answer").get<std::string>(), *asked), one.at("score"),
                5.1e-5);
    ++compared;
  }
  EXPECT_GT(compared, 100);
}

TEST_F(PublishedMetricsTest, PlacesInPrompts) {
  int compared = 0;
  for (const nlohmann::json& one : cases_) {
    if (!one.contains("template")) continue;
    made_.material.prompts[one.at("infinitebench")] = one.at("template");
    const auto source = Open(one);
    ASSERT_THAT(source, IsOk());
    EXPECT_EQ(tokenizer_->Decode(source->make({kLong, std::nullopt, 0})->prompt, true),
              one.at("prompt").get<std::string>());
    ++compared;
  }
  EXPECT_EQ(compared, 2);
}

}  // namespace
}  // namespace longspan
