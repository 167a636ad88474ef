#include "launcher/calibrate_report.h"

#include <cmath>
#include <nlohmann/json.hpp>
#include <numeric>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace longspan {
namespace {

using ::testing::HasSubstr;

const CalibrationSource kSource = {"models/x", "text.txt"};

// recalls: [layers][windows].
CalibrationReport MakeReport(const std::vector<std::vector<double>>& recalls) {
  CalibrationReport report;
  report.tokens = 1000;
  report.recall = {{96, 128}, {8, 88}, 10};
  report.held_out_windows = static_cast<int64_t>(recalls[0].size());
  for (const std::vector<double>& windows : recalls) {
    CalibrationReport::Layer& layer = report.layers.emplace_back();
    layer.window_recalls = windows;
    layer.recall =
        std::accumulate(windows.begin(), windows.end(), 0.0) / static_cast<double>(windows.size());
    layer.explained = 0.5;
  }
  return report;
}

CalibrateOptions Choosing(double recall, ReportFormat format) {
  CalibrateOptions options;
  options.methods = {FitMethod::kClosedForm};
  options.recall = recall;
  options.format = format;
  return options;
}

TEST(FormatDimChoiceTest, WindowsThatChoseDoNotTell) {
  const std::vector<FitCase> cases = {{FitMethod::kClosedForm, 16}, {FitMethod::kClosedForm, 32}};
  const std::vector<CalibrationReport> reports = {
      MakeReport({{0.5, 0.25, 0.5}, {1, 0.75, 1}}),
      MakeReport({{1, 0.625, 1}, {1, 0.875, 1}}),
  };
  const std::string text =
      FormatDimChoice(kSource, Choosing(1, ReportFormat::kJson), {1, 32, 2}, cases, reports);
  const nlohmann::json json = nlohmann::json::parse(text);
  EXPECT_EQ(json["dims"], nlohmann::json({32, 16}));
  EXPECT_EQ(json["reached"], true);
  EXPECT_EQ(json["recall_of_choosing"], 1);
  EXPECT_EQ(json["told_by_other_windows"], true);
  EXPECT_EQ(json["recalls"], nlohmann::json({0.625, 0.75}));
  EXPECT_EQ(json["recall"], 0.6875);
  EXPECT_EQ(json["mean_dim"], 24);
  EXPECT_EQ(json["bytes_per_token"], (32 + 16) * 2);
  EXPECT_EQ(json["uniform"], nlohmann::json({{"dim", 32}, {"recall", 0.75}}));
  EXPECT_EQ(json["recall_keys"], 80);
  EXPECT_EQ(json["recall_queries"], 32);
  EXPECT_EQ(json["held_out_windows"], 3);

  const std::string table =
      FormatDimChoice(kSource, Choosing(1, ReportFormat::kTable), {1, 32, 2}, cases, reports);
  EXPECT_THAT(table, HasSubstr("exact top 10 of 80 keys, by 32 queries of each of 3 held-out"));
  EXPECT_THAT(table, HasSubstr("100.0% there reaches 100.0% with 32 on average at most"));
  EXPECT_THAT(table, HasSubstr("62.5% in layer 0, the lowest; 96 bytes a token"));
  const std::string csv =
      FormatDimChoice(kSource, Choosing(1, ReportFormat::kCsv), {1, 32, 2}, cases, reports);
  EXPECT_THAT(csv, HasSubstr("0,32,0.625000\n1,16,0.750000\n"));
}

TEST(FormatDimChoiceTest, OneWindowDoesBothAndSaysSo) {
  const std::vector<FitCase> cases = {{FitMethod::kPca, 16}};
  const std::vector<CalibrationReport> reports = {MakeReport({{0.5}})};
  const std::string table =
      FormatDimChoice(kSource, Choosing(0.9, ReportFormat::kTable), {0.9, 16, 4}, cases, reports);
  EXPECT_THAT(table, HasSubstr("which flatters it: 50.0% there misses 90.0%"));
}

TEST(FormatComparisonTest, HasEveryCaseAndLayer) {
  const std::vector<FitCase> cases = {{FitMethod::kPca, 16}, {FitMethod::kSgdMlp, 16}};
  std::vector<CalibrationReport> reports = {MakeReport({{0.5, 0.75}, {1, 1}}),
                                            MakeReport({{0.25, 0.25}, {0.5, 0.5}})};
  for (CalibrationReport::Layer& layer : reports[1].layers) layer.explained = std::nan("");
  CalibrateOptions options;
  options.compares = true;
  options.format = ReportFormat::kCsv;
  EXPECT_EQ(FormatComparison(kSource, options, cases, reports),
            "method,dim,layer,recall,variance_kept\n"
            "pca,16,0,0.625000,0.500000\npca,16,1,1.000000,0.500000\n"
            "sgd_mlp,16,0,0.250000,\nsgd_mlp,16,1,0.500000,\n");
  options.format = ReportFormat::kJson;
  const nlohmann::json json =
      nlohmann::json::parse(FormatComparison(kSource, options, cases, reports));
  EXPECT_EQ(json["fits"][0]["recall"], 0.8125);
  EXPECT_TRUE(json["fits"][1]["layers"][0]["variance_kept"].is_null());
  options.format = ReportFormat::kTable;
  EXPECT_THAT(FormatComparison(kSource, options, cases, reports), HasSubstr("layer   1   100.0%"));
}

}  // namespace
}  // namespace longspan
