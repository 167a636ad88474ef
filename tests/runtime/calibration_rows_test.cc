#include "runtime/calibration_rows.h"

#include <set>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace longspan {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

TEST(RecallRangesTest, AreThoseOfTheLastBlockOfTheWindow) {
  EsaConfig esa;
  esa.initial_tokens = 128;
  esa.local_tokens = 4096;
  esa.top_k = 2048;
  const RecallRanges long_window = RecallRangesOf(esa, 8192);
  EXPECT_EQ(long_window.queries, (Range{8128, 8192}));
  EXPECT_EQ(long_window.keys, (Range{128, 8128 - 4096}));
  EXPECT_EQ(long_window.top_k, 3904 / 8);
  esa.top_k = 16;
  EXPECT_EQ(RecallRangesOf(esa, 8192).top_k, 16);
  // Local tokens that exceed the window leave half of it.
  const RecallRanges short_window = RecallRangesOf(esa, 256);
  EXPECT_EQ(short_window.queries, (Range{192, 256}));
  EXPECT_EQ(short_window.keys, (Range{32, 64}));
  EXPECT_EQ(short_window.top_k, 4);
  EXPECT_EQ(RecallRangesOf(esa, 8).top_k, 0);
}

TEST(WindowUsesTest, HoldsOutOneInEightOnEveryRankAndNoShortOne) {
  WindowUses uses(100);
  std::vector<int64_t> held_out;
  std::set<int64_t> ranks;  // of 8 that take windows in turn
  for (int64_t index = 0; index < 64; ++index) {
    const WindowUse use = uses.Next(100);
    EXPECT_EQ(use.index, index);
    if (use.held_out < 0) continue;
    EXPECT_EQ(use.held_out, static_cast<int64_t>(held_out.size()));
    EXPECT_EQ(use.sampled_rows, 0);
    held_out.push_back(index);
    ranks.insert(index % 8);
  }
  EXPECT_EQ(held_out[0], kMinCalibrationWindows - 1);
  EXPECT_EQ(held_out.size(), 8);
  EXPECT_EQ(ranks.size(), 8);
  EXPECT_EQ(uses.held_out(), 8);
  EXPECT_EQ(uses.fitted_tokens(), 56 * 100);

  WindowUses ends_early(100);
  for (int64_t index = 0; index < 4; ++index) ends_early.Next(100);
  EXPECT_EQ(ends_early.Next(99).held_out, -1);
}

TEST(WindowUsesTest, KeepsAndHoldsOutSoMuchAndNoMore) {
  WindowUses uses(8192);
  int64_t sampled = 0;
  for (int64_t index = 0; index < 100; ++index) sampled += uses.Next(8192).sampled_rows;
  EXPECT_EQ(sampled, kSgdTokens);
  EXPECT_EQ(uses.held_out() * 8192, kHeldOutTokens);
}

TEST(CalibrationRowsTest, HeldOutRowsAreInNeitherMomentsNorSample) {
  // One head of width 1; the value of a row is its number.
  const RecallRanges recall = {{6, 8}, {1, 4}, 1};
  CalibrationRows rows({1, 1, 1}, /*layers=*/1, /*keeps_rows=*/true, nullptr, 0, recall);
  const WindowUse fitted = {.index = 0, .sampled_rows = 3};
  const WindowUse held_out = {.index = 1, .held_out = 5};
  rows.Expect({fitted, held_out});
  const float queries[] = {0, 1, 2, 3, 4, 5, 6, 7};
  const float keys[] = {10, 11, 12, 13, 14, 15, 16, 17};
  rows.Add(fitted, 0, queries, keys, 8);
  rows.Add(held_out, 0, queries, keys, 8);
  EXPECT_EQ(rows.moments()[0].count, 8);
  EXPECT_EQ(rows.moments()[0].key_sum[0], 108);
  EXPECT_THAT(rows.sample().layers[0].queries, ElementsAre(0, 1, 2));
  EXPECT_THAT(rows.sample().layers[0].keys, ElementsAre(10, 11, 12));
  EXPECT_EQ(rows.sample().layers[0].keys.capacity(), 3);
  ASSERT_EQ(rows.held_out()[0].size(), 1);
  EXPECT_THAT(rows.held_out()[0][0].queries, ElementsAre(6, 7));
  EXPECT_THAT(rows.held_out()[0][0].keys, ElementsAre(11, 12, 13));
  EXPECT_THAT(rows.held_out_windows(), ElementsAre(5));

  CalibrationRows moments_alone({1, 1, 1}, 1, /*keeps_rows=*/false, nullptr, 0, recall);
  moments_alone.Expect({fitted});
  moments_alone.Add(fitted, 0, queries, keys, 8);
  EXPECT_THAT(moments_alone.sample().layers, IsEmpty());
}

}  // namespace
}  // namespace longspan
