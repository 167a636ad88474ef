#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>

#include "launcher/eval_figures.h"
#include "launcher/eval_options.h"
#include "launcher/eval_report.h"
#include "tests/runtime/file_testing.h"

namespace longspan {
namespace {

using ::longspan::testing::Fails;
using ::longspan::testing::TempDir;
using ::longspan::testing::WriteFile;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::Not;

constexpr auto kInvalid = absl::StatusCode::kInvalidArgument;

TEST(EvalOptionsTest, Lengths) {
  EXPECT_THAT(*ParseLengths("length", "8192,4096,8192"), ElementsAre(4096, 8192));
  EXPECT_THAT(*ParseLengths("length", "100/3,50"), ElementsAre(33, 50, 66, 100));
  EXPECT_EQ(ParseLengths("length", "131072/32")->size(), 32);
  for (const char* bad : {"", "0", "-1", "4096,", "1/", "8/9", "a/2", "4096/0"}) {
    EXPECT_THAT(ParseLengths("length", bad), Fails(kInvalid, "--length must be")) << bad;
  }
}

TEST(EvalOptionsTest, Shares) {
  EXPECT_THAT(*ParseShares("depth", "1,0,0.5"), ElementsAre(0, 0.5, 1));
  for (const char* bad : {"", "2", "-0.1", "nan", "0.5,", "half"}) {
    EXPECT_THAT(ParseShares("depth", bad), Fails(kInvalid, "--depth must be numbers from 0 to 1"));
  }
}

TEST(EvalOptionsTest, Prompts) {
  const TempDir directory;
  const std::string path = directory / "prompts.json";
  WriteFile(path, R"({"hotpotqa": "{context}?"})");
  EXPECT_EQ(ReadPrompts(path)->at("hotpotqa"), "{context}?");
  EXPECT_TRUE(ReadPrompts("")->empty());
  for (const char* bad : {"[]", R"({"hotpotqa": 1})", R"({"hotpotqa": "no place"})"}) {
    WriteFile(path, bad);
    EXPECT_THAT(ReadPrompts(path), Fails(kInvalid, "prompts.json"));
  }
}

EvalResult ResultOf(const std::string& method, const CaseId& id, double score) {
  return {"passkey", method, id, "Who?", "Ann", {"Ann"}, score, id.length, 3};
}

TEST(EvalReportTest, HasMapsCurvesAndIntervals) {
  std::vector<EvalResult> results;
  for (const char* method : {"dense", "a<b"}) {
    for (const int64_t length : {4096, 8192}) {
      for (const double depth : {0.0, 0.5})
        results.push_back(ResultOf(method, {length, depth, 0}, depth * 2));
    }
  }
  EXPECT_EQ(HeatMaps(CellsByDepth(results)).size(), 2);
  EXPECT_EQ(LengthCurves(CellsByLength(results)).size(), 1);
  EXPECT_TRUE(PositionCurves(CellsByLength(results)).empty());
  const std::string page = EvalHtml({{"haystack", ""}, {"seed", 0}}, results);
  EXPECT_THAT(page, HasSubstr("a&lt;b"));
  EXPECT_THAT(page, Not(HasSubstr("a<b")));
  EXPECT_THAT(page, HasSubstr("<b>50.0%</b><br><span class=\"soft\">9.5% to 90.5%, n 2</span>"));
  EXPECT_THAT(page, HasSubstr("<dd>generated</dd>"));
  const std::string table = EvalTable(results);
  EXPECT_THAT(table, HasSubstr("50.0%  9.5% to 90.5%"));

  EvalResult scored = ResultOf("dense", {4096, std::nullopt, 0}, 2);
  scored.task = "perplexity/book";
  scored.nats_by_part = {1, 7};
  EXPECT_EQ(PositionCurves(CellsByLength({scored})).size(), 1);
  EXPECT_THAT(EvalHtml({}, {scored}), HasSubstr("Perplexity by position"));
}

}  // namespace
}  // namespace longspan
