#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>

#include "eval/interval.h"
#include "eval/rouge.h"
#include "eval/scorers.h"
#include "eval/text_metrics.h"

namespace longspan {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

TEST(ScorersTest, WholeWordsAlone) {
  EXPECT_TRUE(HasWord("Answer: 4821.", "4821"));
  EXPECT_FALSE(HasWord("Answer: 48213", "4821"));
  EXPECT_TRUE(HasWord("148213 48213", "48213"));
  EXPECT_TRUE(HasWord("on TALARA", "Talara"));
  EXPECT_FALSE(HasWord("Talar\xC3\xA1", "Talar"));
  EXPECT_FALSE(HasWord("Answer:", ""));
  EXPECT_FALSE(HasWord("", "a"));
}

TEST(TextMetricsTest, WordF1) {
  EXPECT_EQ(NormalizeAnswer("  The Cat's\tA hat, an owl. "), "cats hat owl");
  EXPECT_EQ(WordF1("The red fox!", "a red fox"), 1);
  EXPECT_DOUBLE_EQ(WordF1("red fox red", "red dog"), 2 * (1.0 / 3) * 0.5 / (1.0 / 3 + 0.5));
  EXPECT_EQ(WordF1("owl", "fox"), 0);
  EXPECT_EQ(WordF1("L'\u00c9cole\u00a0est", "l'\u00e9cole est"), 1);
  EXPECT_EQ(WordF1("", "fox"), 0);
}

TEST(TextMetricsTest, CharacterF1) {
  EXPECT_EQ(CharacterF1("「红楼梦」。", "红楼梦"), 1);
  EXPECT_DOUBLE_EQ(CharacterF1("红楼", "红楼梦境"), 2.0 * 1 * 0.5 / 1.5);
  EXPECT_DOUBLE_EQ(CharacterF1("！Ａb", "ａ"), 2.0 / 3);  // full-width letters have cases too
  EXPECT_EQ(LowerCase("ÉA\xff"), "éa\xff");
  EXPECT_EQ(UpperCase("éa"), "ÉA");
}

// The first two as the Python package `rouge` gives them.
TEST(TextMetricsTest, RougeL) {
  EXPECT_NEAR(RougeL("the cat sat on the mat", "the cat"), 2 * 0.4 / 1.4, 1e-7);
  EXPECT_NEAR(RougeL("a b. c d", "d c. b a"), 2 * 0.5 * 0.5, 1e-7);
  EXPECT_EQ(RougeL("", "a"), 0);
  EXPECT_EQ(RougeL("b", "a"), 0);
  EXPECT_EQ(RougeL("a b", "a b"), 1);
}

// The example of the paper on ROUGE (Lin 2004): w1 w2 and w1 w3 w5 of five.
TEST(TextMetricsTest, RougeLsum) {
  EXPECT_DOUBLE_EQ(RougeLsum("w1 w2 w6 w7 w8\nw1 w3 w8 w9 w5", "w1 w2 w3 w4 w5"),
                   2 * 0.4 * 0.8 / 1.2);
  EXPECT_DOUBLE_EQ(RougeLsum("a-b a", "A, b"), 2 * (2.0 / 3) / (5.0 / 3));
}

TEST(TextMetricsTest, Similarity) {
  EXPECT_DOUBLE_EQ(Similarity("abc", "abd"), 0.67);  // whole percents
  EXPECT_EQ(Similarity("x = 1", "x = 1"), 1);
  EXPECT_EQ(Similarity("", "abc"), 0);
  EXPECT_EQ(Similarity("", ""), 1);
}

TEST(TextMetricsTest, DigitRuns) {
  EXPECT_THAT(DigitRuns("a12b, 3.40"), ElementsAre("12", "3", "40"));
  EXPECT_THAT(DigitRuns("none"), IsEmpty());
}

TEST(IntervalTest, Wilson) {
  EXPECT_NEAR(WilsonInterval(0.5, 10).low, 0.2366, 1e-4);
  EXPECT_NEAR(WilsonInterval(0.5, 10).high, 0.7634, 1e-4);
  EXPECT_NEAR(WilsonInterval(1, 100).low, 0.9630, 1e-4);
  EXPECT_DOUBLE_EQ(WilsonInterval(1, 100).high, 1);
  EXPECT_EQ(WilsonInterval(0, 5).low, 0);
  EXPECT_EQ(WilsonInterval(0, 0).high, 1);
}

TEST(IntervalTest, Student) {
  const Interval three = StudentInterval({1, 2, 3});
  EXPECT_NEAR(three.low, 2 - 4.303 / std::sqrt(3.0), 1e-9);
  EXPECT_NEAR(three.high, 2 + 4.303 / std::sqrt(3.0), 1e-9);
  EXPECT_TRUE(std::isinf(StudentInterval({1}).high));
  EXPECT_TRUE(std::isinf(StudentInterval({}).low));
}

}  // namespace
}  // namespace longspan
