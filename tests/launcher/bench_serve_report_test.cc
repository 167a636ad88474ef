#include "launcher/bench_serve_report.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"

namespace longspan {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::Not;

ServeReport Report() {
  ServeReport report;
  report.url = "http://a:1/v1/completions";
  report.prompts.model = "m";
  report.num_prompts = 3;
  report.request_rate = 2.5;
  ServeRecord record;
  record.is_finished = record.is_answered = record.has_usage = true;
  record.content_s = {0.25};
  record.end_s = 0.5;
  record.input_tokens = 100;
  record.output_tokens = 1;
  report.summary = SummarizeServe({record, record}, 4);
  return report;
}

TEST(ServeReport, NumbersWithoutSamplesAreLeftOut) {
  const ServeReport report = Report();
  const auto json = nlohmann::json::parse(FormatServeReport(report, ReportFormat::kJson));
  EXPECT_EQ(json["completed"], 2);
  EXPECT_EQ(json["request_throughput"], 0.5);
  EXPECT_EQ(json["input_throughput"], 50);
  EXPECT_EQ(json["median_ttft_ms"], 250);
  EXPECT_TRUE(json["mean_tpot_ms"].is_null());
  EXPECT_EQ(json["request_rate"], 2.5);
  EXPECT_TRUE(json["failures"].empty());
  const std::string table = FormatServeReport(report, ReportFormat::kTable);
  EXPECT_THAT(table, AllOf(HasSubstr("inter-token latency             -          -"),
                           HasSubstr("request rate 2.5; max concurrency none"),
                           Not(HasSubstr("failed:")), Not(HasSubstr("not finished"))));
  const std::vector<std::string> lines =
      absl::StrSplit(FormatServeReport(report, ReportFormat::kCsv), '\n');
  ASSERT_EQ(lines.size(), 3u);
  EXPECT_EQ(std::vector<std::string>(absl::StrSplit(lines[0], ',')).size(),
            std::vector<std::string>(absl::StrSplit(lines[1], ',')).size());
}

TEST(ServeReport, TellsTheFirstReasons) {
  ServeReport report = Report();
  std::vector<ServeRecord> records;
  for (int i = 0; i < 8; ++i) {
    ServeRecord record;
    record.is_finished = true;
    record.failure = absl::StrCat("HTTP ", 500 + i);
    if (i == 1) record.message = "an \"odd\" one, \xff";
    records.push_back(record);
    if (i == 7) records.push_back(record);
  }
  report.summary = SummarizeServe(records, 1);
  EXPECT_EQ(FailureText(report.summary),
            "2 HTTP 507, 1 HTTP 500, 1 HTTP 501 (an \"odd\" one, \xff), 1 HTTP 502, 1 HTTP 503, "
            "and 3 of other reasons");
  EXPECT_THAT(FormatServeReport(report, ReportFormat::kTable), HasSubstr("failed: 2 HTTP 507"));
  EXPECT_THAT(FormatServeReport(report, ReportFormat::kCsv), HasSubstr("(an \"\"odd\"\" one"));
  const auto json = nlohmann::json::parse(FormatServeReport(report, ReportFormat::kJson));
  EXPECT_EQ(json["failures"].size(), 8u);
}

}  // namespace
}  // namespace longspan
