// Files and points of a fit; plan_test.cc has the fit itself.
#include "launcher/plan_fit.h"

#include <fstream>
#include <iterator>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "runtime/hardware_profile.h"

namespace longspan {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::Not;
using ::testing::StartsWith;

std::string ErrorOf(const absl::Status& status) { return std::string(status.message()); }

ScalePoint PointOf(int64_t context, int64_t ranks) {
  ScalePoint point;
  point.key = {"esa", context, 1, ranks};
  point.config = {{"model", std::string(LONGSPAN_SOURCE_DIR) + "/configs/shapes/llama3-8b"},
                  {"parallel.stripe_tokens", "4096"}};
  point.machine.device = "a CPU";
  point.hosts.assign(ranks, "host");
  point.slots.assign(ranks, ranks);
  point.prefill_s = point.decode_s = {1};
  point.chunks_s = point.first_token_s = {1};
  point.peak_bytes.assign(ranks, 0);
  point.outputs.resize(1);
  RankPhases phases;
  phases.decode.steps = phases.prefill.steps = 1;
  phases.decode.seconds[static_cast<int>(Phase::kLinear)] = 1;
  point.phases.assign(ranks, phases);
  return point;
}

// Contexts and ranks of the points of a grid that are held out.
std::vector<std::string> HeldOutOf(int64_t every, const std::vector<int64_t>& ranks,
                                   int64_t sharing = 0) {
  std::vector<ScalePoint> points;
  for (const int64_t context : {1, 2, 3, 4}) {
    for (const int64_t number : ranks) {
      points.push_back(PointOf(context, number));
      if (number == sharing) points.back().slots.assign(number, 1);
    }
  }
  const auto held = HeldOut({.every = every}, points);
  EXPECT_TRUE(held.ok()) << held.status();
  std::vector<std::string> names;
  for (size_t i = 0; i < points.size(); ++i) {
    if ((*held)[i]) names.push_back(absl::StrCat(points[i].key.context, "/", points[i].key.ranks));
  }
  return names;
}

TEST(HeldOutTest, TakesAllNumbersOfRanksInTurn) {
  EXPECT_THAT(HeldOutOf(3, {1, 2}), ElementsAre("2/1", "3/2"));
  EXPECT_THAT(HeldOutOf(3, {1, 2, 4}), ElementsAre("1/4", "2/2", "3/1", "4/4"));
  EXPECT_THAT(HeldOutOf(2, {1, 2}), ElementsAre("1/2", "2/1", "3/2", "4/1"));
  EXPECT_THAT(HeldOutOf(3, {1, 2, 4}, /*sharing=*/4), ElementsAre("2/1", "3/2"));
}

TEST(HeldOutTest, RefusesWhatHoldsNothing) {
  const std::vector<ScalePoint> points = {PointOf(1, 1), PointOf(2, 1)};
  EXPECT_EQ(ErrorOf(HeldOut(*ParseHoldout("1/1,9999/3"), points).status()),
            "--holdout 9999/3: the files have no such point");
  EXPECT_THAT(ErrorOf(HeldOut(*ParseHoldout("3"), points).status()),
              HasSubstr("--holdout 3: the files have fewer points than that"));
}

TEST(FitWarningTest, NamesTheWorstRows) {
  FitReport report;
  const auto add = [&](const char* why, const char* what, double measured) {
    report.checks.push_back({why, {what, measured, 1}});
  };
  add("", "good", 1);
  add("", "far", 0.5);
  add("", "near", 1.1);
  add("shares cores", "alone", 0.1);
  EXPECT_EQ(FitWarning(report), "");
  add("held out", "half", 2);
  EXPECT_THAT(FitWarning(report),
              AllOf(HasSubstr("held out: median 50.0%, largest 50.0%, 0 of 1 within 15%, the worst "
                              "half (-50.0%)"),
                    Not(HasSubstr("good"))));
  add("", "farther", 0.4);
  add("", "farthest", 0.3);
  EXPECT_THAT(FitWarning(report), HasSubstr("the worst farthest (+233.3%); farther (+150.0%); far "
                                            "(+100.0%). held out"));
}

class FitFilesTest : public testing::Test {
 protected:
  void SetUp() override {
    job_.hardware = std::string(LONGSPAN_SOURCE_DIR) + "/configs/hardware/intel_xeon.yaml";
    job_.inputs = {Write("points.jsonl", ToJson(PointOf(4096, 1)).dump() + "\n")};
    job_.output = ::testing::TempDir() + "/plan_fit_mine.yaml";
    start_ = *LoadHardwareProfile(job_.hardware);
  }
  static std::string Write(const std::string& name, const std::string& text) {
    const std::string path = ::testing::TempDir() + "/plan_fit_" + name;
    std::ofstream(path) << text;
    return path;
  }
  static std::string Read(const std::string& path) {
    std::ifstream file(path);
    return {std::istreambuf_iterator<char>(file), {}};
  }
  absl::Status Fit() const { return FitFiles(job_, start_); }

  FitJob job_;
  HardwareProfile start_;
};

TEST_F(FitFilesTest, TheProfileSaysWhatItIsFrom) {
  ASSERT_TRUE(Fit().ok()) << Fit();
  const std::string yaml = Read(job_.output);
  EXPECT_THAT(yaml, StartsWith("# Fitted by longspan "));
  EXPECT_THAT(yaml, HasSubstr("\n# to " + job_.inputs[0] + "\n# 1 points, 0 collectives; a CPU"));
  EXPECT_THAT(yaml, HasSubstr("\n# fitted: median "));
  EXPECT_TRUE(LoadHardwareProfile(job_.output).ok());
}

// As `longspan scale` reads them.
TEST_F(FitFilesTest, ReadsLinesOfAStudy) {
  ScalePoint point = PointOf(4096, 1);
  point.version = "old";
  const std::string old = ToJson(point).dump();
  point.version = "new";
  const std::string line = ToJson(point).dump();
  FitInput input;
  const std::string whole = Write("lines.jsonl", old + "\n\n" + line);
  ASSERT_EQ(ErrorOf(ReadFitFile(whole, &input)), "");
  ASSERT_EQ(input.points.size(), 1u);
  EXPECT_EQ(input.points[0].version, "new");
  EXPECT_TRUE(input.notes.empty());
  input = {};
  const std::string cut = Write("cut.jsonl", old + "\n" + line.substr(0, line.size() / 2));
  ASSERT_EQ(ErrorOf(ReadFitFile(cut, &input)), "");
  ASSERT_EQ(input.points.size(), 1u);
  EXPECT_EQ(input.points[0].version, "old");
  EXPECT_THAT(input.notes, ElementsAre(cut + ":2: the last line breaks off and is left out"));
}

TEST_F(FitFilesTest, OneKeyUnderTwoConfigsIsTwoPoints) {
  ScalePoint point = PointOf(4096, 1);
  const std::string line = ToJson(point).dump();
  point.config["prefill.chunk_tokens"] = "512";
  const std::string other = ToJson(point).dump();
  FitInput input;
  ASSERT_EQ(ErrorOf(ReadFitFile(Write("two.jsonl", line + "\n" + other + "\n"), &input)), "");
  EXPECT_EQ(input.points.size(), 2u);
}

TEST_F(FitFilesTest, RefusesFilesThatAreTheSame) {
  job_.inputs.push_back(::testing::TempDir() + "/./plan_fit_points.jsonl");
  EXPECT_THAT(ErrorOf(Fit()), HasSubstr("is given twice"));
}

TEST_F(FitFilesTest, RefusesPointsOfAnotherDevice) {
  start_.is_gpu = true;
  EXPECT_THAT(ErrorOf(Fit()), HasSubstr("1 rank, 4096 tokens, batch 1, esa: was measured on CPUs "
                                        "(a CPU), and --hardware is a profile of GPUs"));
}

}  // namespace
}  // namespace longspan
