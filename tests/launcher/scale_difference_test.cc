#include "launcher/scale_difference.h"

#include <string>
#include <utility>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace longspan {
namespace {

using ::testing::HasSubstr;

TEST(ScaleDifferenceTest, NamesTheKeyOfAConfig) {
  ScaleStudy there, here;
  there.config = "a: 1\nb: 2\n";
  here.config = "a: 1\n";
  EXPECT_EQ(StudyDifference(there, here), "`b` is 2 there and the default here");
  EXPECT_EQ(StudyDifference(here, there), "`b` is the default there and 2 here");
}

TEST(ScaleDifferenceTest, LooksPastAConfigThatIsWrittenInAnotherWay) {
  ScaleStudy there, here;
  there.config = "a: 1\nb: 2\n";
  here.config = "b: 2\na: 1\n";
  EXPECT_EQ(StudyDifference(there, here), "");
  here.steps = 4;
  EXPECT_EQ(StudyDifference(there, here), "`decode` is 0 there and 4 here");
}

TEST(ScaleDifferenceTest, LetsAGridGrow) {
  ScaleStudy there, here;
  there.ranks = {1, 2};
  here.ranks = {4, 2, 1};
  EXPECT_EQ(StudyDifference(there, here), "");
  EXPECT_EQ(StudyDifference(here, there),
            "`ranks` is [4,2,1] there and [1,2] here, and may only grow");
}

ScaleStudy StudyOf(std::string file, std::string text) {
  ScaleStudy study;
  study.file = std::move(file);
  study.text = std::move(text);
  return study;
}

TEST(ScaleDifferenceTest, TellsOfAnotherText) {
  const ScaleStudy here = StudyOf("text.txt", "checksum");
  EXPECT_EQ(StudyDifference(StudyOf("text.txt", ""), here), "");  // of an earlier version
  EXPECT_EQ(StudyDifference(StudyOf("text.txt", "another"), here),
            "`file` has another text than there");
  EXPECT_EQ(StudyDifference(StudyOf("other.txt", "another"), here),
            "`file` is \"other.txt\" there and \"text.txt\" here");
}

TEST(ScaleDifferenceTest, LetsReferencesComeAndGo) {
  ScaleStudy there, here;
  there.references = false;
  EXPECT_EQ(StudyDifference(there, here), "");
  EXPECT_EQ(StudyDifference(here, there), "");
}

TEST(ScaleDifferenceTest, TellsOfAnotherLaunch) {
  ScaleStudy there, here;
  there.launch = here.launch = "mpirun --hostfile hosts";
  there.hostfile = "a\n";
  EXPECT_THAT(LaunchDifference(there, here), HasSubstr("another hostfile"));
  EXPECT_EQ(StudyDifference(there, here), "");
  here.launch = "srun";
  EXPECT_THAT(LaunchDifference(there, here),
              HasSubstr("`mpirun --hostfile hosts` there and `srun`"));
  EXPECT_EQ(LaunchDifference({}, here), "");  // of an earlier version
}

}  // namespace
}  // namespace longspan
