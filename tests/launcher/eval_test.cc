#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <set>
#include <string>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "launcher/eval_figures.h"
#include "launcher/eval_options.h"
#include "launcher/eval_report.h"
#include "launcher/eval_tables.h"
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
  EvalResult result = {"passkey", method, id, "Who?", "Ann", {"Ann"}};
  result.score = score;
  result.prompt_tokens = id.length;
  return result;
}

EvalResult ScoredPrompt(const std::string& method, double nats) {
  EvalResult result = ResultOf(method, {4096, std::nullopt, 0}, nats);
  result.task = "perplexity/book";
  result.metric = EvalMetric::kNats;
  result.scored_tokens = 1024;
  result.nats_by_part = {nats, 7};
  return result;
}

// Of two methods and some lengths, with depths 0 and 0.5, of which the former are wrong.
EvalData DataOf(const std::vector<int64_t>& lengths) {
  EvalData data;
  data.description = {{"about", {{"model", "needle"}, {"haystack", ""}, {"prompts", "p.json"}}},
                      {"settings", {{"cases_of_a_method", 2 * lengths.size()}, {"seed", 0}}},
                      {"methods", {{"dense", {{"attends_to", "all"}}}, {"a<b", {{"k", 3}}}}}};
  for (const char* method : {"dense", "a<b"}) {
    for (const int64_t length : lengths) {
      for (const double depth : {0.0, 0.5}) {
        data.results.push_back(ResultOf(method, {length, depth, 0}, depth * 2));
      }
      data.costs.push_back({method, length, 2, 2 * length, 8, 0.5, 1, 123, 10000});
    }
  }
  return data;
}

TEST(EvalReportTest, HasMapsCurvesAndIntervals) {
  EvalData data = DataOf({4096, 8192});
  EXPECT_EQ(HeatMaps(CellsByDepth(data.results)).size(), 2);
  EXPECT_EQ(LengthCurves(CellsByLength(data.results)).size(), 1);
  EXPECT_TRUE(PositionCurves(CellsByLength(data.results)).empty());
  const std::string page = EvalHtml(data);
  EXPECT_THAT(page, HasSubstr("a&lt;b"));
  EXPECT_THAT(page, Not(HasSubstr("a<b")));
  EXPECT_THAT(page, HasSubstr("<b>50.0%</b><br><span class=\"soft\">9.5% to 90.5%, n 2</span>"));
  EXPECT_THAT(page, HasSubstr("<dd>p.json</dd>"));
  EXPECT_THAT(page, HasSubstr("<dd>generated</dd>"));
  EXPECT_THAT(page, HasSubstr("<b>1.23%</b>"));
  EXPECT_THAT(page, Not(HasSubstr("Incomplete")));
  EXPECT_THAT(EvalTable(data), HasSubstr("    1.23%     2     50.0%  9.5% to 90.5%"));

  data.results.push_back(ScoredPrompt("dense", 2));
  EXPECT_EQ(PositionCurves(CellsByLength(data.results)).size(), 1);
  EXPECT_THAT(EvalHtml(data), HasSubstr("Perplexity by position"));
}

TEST(EvalReportTest, TablesOfMarkdown) {
  EXPECT_EQ(EvalMarkdown(DataOf({4096, 8192})),
            "| passkey | 4,096 | 8,192 |\n|---|---|---|\n"
            "| `dense` | 50.0% (9.5% to 90.5%, n 2) | 50.0% (9.5% to 90.5%, n 2) |\n"
            "| `a<b` | 50.0% (9.5% to 90.5%, n 2) | 50.0% (9.5% to 90.5%, n 2) |\n\n"
            "| attended to | 4,096 | 8,192 |\n|---|---|---|\n"
            "| `dense` | 1.23% | 1.23% |\n| `a<b` | 1.23% | 1.23% |\n\n"
            "| prompt tokens a second | 4,096 | 8,192 |\n|---|---|---|\n"
            "| `dense` | 16,384 | 32,768 |\n| `a<b` | 16,384 | 32,768 |\n\n");
}

TEST(EvalReportTest, ManyLengthsAreSeveralTables) {
  std::vector<EvalCell> cells;
  for (int64_t length = 1; length <= 13; ++length) {
    EvalCell& cell = cells.emplace_back(EvalCell{"counting_stars", "dense", length});
    cell.cases = length;
  }
  cells.push_back(EvalCell{"counting_stars", "block", 13});
  const std::vector<MethodTable> tables = ScoreTables(cells);
  ASSERT_EQ(tables.size(), 3);
  EXPECT_THAT(tables[1].lengths, ElementsAre(5, 6, 7, 8));
  EXPECT_THAT(tables[1].cells[0][1][1], HasSubstr(", n 6"));
  EXPECT_TRUE(tables[1].cells[1][1].empty());
  EXPECT_EQ(tables[2].cells[1][4][0], "0.0%");
}

TEST(EvalReportTest, TellsWhatIsMissing) {
  EvalData data = DataOf({4096, 8192});
  data.results.pop_back();
  constexpr char kNote[] = "Incomplete: 7 of 8 cases have been run. The same command goes on.";
  EXPECT_THAT(EvalHtml(data), HasSubstr(kNote));
  EXPECT_THAT(EvalTable(data), HasSubstr(kNote));
  EXPECT_THAT(EvalMarkdown(data), HasSubstr(kNote));
}

// Each method is drawn alike in all figures, and unlike all others.
TEST(EvalFiguresTest, MethodsAreToldApart) {
  std::vector<EvalCell> cells;
  for (int method = 0; method < 10; ++method) {
    for (const int64_t length : {64, 128}) {
      cells.push_back({"passkey", absl::StrCat("method", method), length});
    }
  }
  const std::string figure = LengthCurves(cells).at(0);
  std::set<std::string> looks;
  for (const absl::string_view line : absl::StrSplit(figure, '\n')) {
    if (!absl::StartsWith(line, "<path class=\"marker")) continue;
    const size_t form = line.find(" d="), place = line.find(" transform="),
                 fill = line.find(" fill");
    looks.insert(absl::StrCat(line.substr(form, place - form), line.substr(fill, 16)));
  }
  EXPECT_EQ(looks.size(), 10);
  // The second method alone.
  cells.push_back({"other", "method1", 64});
  cells.push_back({"other", "method1", 128});
  EXPECT_THAT(LengthCurves(cells).at(1), HasSubstr("#d55e00"));
}

TEST(EvalFiguresTest, MapsHaveAScaleAndLegibleNumbers) {
  const EvalData data = DataOf({4096});
  const std::string map = HeatMaps(CellsByDepth(data.results)).at(0);
  EXPECT_THAT(map, HasSubstr(">100%</text>"));
  EXPECT_THAT(map, HasSubstr("text-anchor=\"middle\" fill=\"#20252b\">100</text>"));
}

TEST(EvalFiguresTest, LossesThatAreNotFiniteAreLeftOut) {
  constexpr double kInfinity = std::numeric_limits<double>::infinity();
  for (const double nats : {kInfinity, std::nan(""), 1000.0}) {
    const EvalResult result = ScoredPrompt("dense", nats);
    const std::vector<std::string> figures = PositionCurves(CellsByLength({result}));
    ASSERT_EQ(figures.size(), 1);
    EXPECT_THAT(figures[0], Not(HasSubstr("nan")));
    EXPECT_THAT(figures[0], Not(HasSubstr("inf")));
    EXPECT_THAT(figures[0], HasSubstr("1e"));  // of the other part's axis
  }
  EvalResult result = ScoredPrompt("dense", kInfinity);
  result.nats_by_part = {kInfinity};
  EXPECT_EQ(PositionCurves(CellsByLength({result})).size(), 1);
}

}  // namespace
}  // namespace longspan
