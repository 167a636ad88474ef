#include "runtime/selection_stats.h"

#include <nlohmann/json.hpp>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace longspan {
namespace {

using ::testing::ElementsAre;

constexpr auto kPrefill = SelectionStats::kPrefill;
constexpr auto kDecode = SelectionStats::kDecode;

// Two ranks, stripes of 8.
SelectionStats MakeStats() { return SelectionStats(/*layers=*/2, {8, 2}); }

double Value(const SelectionCounts::Mean& mean) {
  return mean.sum / static_cast<double>(mean.count);
}

TEST(SelectionStatsTest, CountsDistancesAndRanks) {
  SelectionStats stats = MakeStats();
  // Distances 100, 92, 64, 63; ranks 0, 1, 0, 0.
  const int64_t selected[] = {0, 8, 36, 37};
  stats.Add(kDecode, 5, 1, {100, 101}, selected);
  EXPECT_EQ(stats.counts(kDecode)[0].selections, 0);
  const SelectionCounts& counts = stats.counts(kDecode)[1];
  EXPECT_EQ(counts.selections, 1);
  EXPECT_EQ(counts.tokens, 4);
  EXPECT_THAT(counts.distances, ElementsAre(0, 0, 0, 0, 0, 1, 3));
  EXPECT_THAT(counts.of_rank, ElementsAre(3, 1));
}

TEST(SelectionStatsTest, OverlapsOfStepsAreOfOneSequenceAndConsecutive) {
  SelectionStats stats = MakeStats();
  const auto add = [&](int64_t sequence, int64_t position, std::vector<int64_t> selected) {
    stats.BeginStep();
    stats.Add(kDecode, sequence, 0, {position, position + 1}, selected);
  };
  add(1, 50, {1, 2, 3});
  add(2, 51, {1, 2, 3});  // another sequence
  EXPECT_EQ(stats.counts(kDecode)[0].overlap_of_steps.count, 0);
  add(1, 51, {2, 3, 4});  // 2 of 4
  add(1, 52, {2, 3, 4});  // all
  EXPECT_EQ(stats.counts(kDecode)[0].overlap_of_steps.count, 2);
  EXPECT_DOUBLE_EQ(Value(stats.counts(kDecode)[0].overlap_of_steps), 0.75);
  add(1, 54, {2, 3, 4});  // one is missing between
  stats.Forget(1);
  add(1, 55, {2, 3, 4});
  EXPECT_EQ(stats.counts(kDecode)[0].overlap_of_steps.count, 2);
}

TEST(SelectionStatsTest, OverlapsOfLayersAreOfTheSameBlock) {
  SelectionStats stats = MakeStats();
  const Range first = {64, 72}, second = {72, 80};
  const int64_t a[] = {1, 2}, b[] = {1, 3}, c[] = {5, 6};
  for (int step = 0; step < 2; ++step) {
    stats.BeginStep();
    stats.Add(kPrefill, step, 0, first, a);
    stats.Add(kPrefill, step, 0, second, c);
    stats.Add(kPrefill, step, 1, first, b);   // 1 of 3 with a
    stats.Add(kPrefill, step, 1, second, c);  // all of c
  }
  EXPECT_EQ(stats.counts(kPrefill)[0].overlap_of_layers.count, 0);
  EXPECT_EQ(stats.counts(kPrefill)[1].overlap_of_layers.count, 4);
  EXPECT_DOUBLE_EQ(Value(stats.counts(kPrefill)[1].overlap_of_layers), (1.0 / 3 + 1) / 2);
  EXPECT_EQ(stats.counts(kPrefill)[0].overlap_of_steps.count, 2);
  EXPECT_EQ(Value(stats.counts(kPrefill)[0].overlap_of_steps), 0);
}

TEST(SelectionStatsTest, JsonHasMeansAndSharesOrNull) {
  SelectionStats stats = MakeStats();
  const int64_t selected[] = {0, 1, 2, 8}, exact[] = {0, 1, 2, 3};
  stats.Add(kDecode, 0, 1, {40, 41}, selected);
  stats.AddRecall(1, selected, exact);
  const nlohmann::json json = nlohmann::json::parse(stats.ToJson());
  EXPECT_EQ(json["ranks"], 2);
  const nlohmann::json& layers = json["decode"]["layers"];
  EXPECT_TRUE(layers[0]["recall"].is_null());
  EXPECT_TRUE(layers[0]["share_of_rank"][0].is_null());
  EXPECT_EQ(layers[1]["recall"], 0.75);
  EXPECT_EQ(layers[1]["share_of_rank"], nlohmann::json({0.75, 0.25}));
  EXPECT_EQ(layers[1]["distances"], nlohmann::json::parse("[{\"at_least\":32,\"tokens\":4}]"));
  EXPECT_TRUE(layers[1]["overlap_of_steps"].is_null());
  EXPECT_EQ(json["prefill"]["layers"][0]["selections"], 0);
  EXPECT_EQ(stats.num_selections(), 1);
  EXPECT_FALSE(json.contains("no_recall"));
  const SelectionStats without(2, {8, 2}, "votes");
  EXPECT_EQ(nlohmann::json::parse(without.ToJson())["no_recall"], "votes");
  EXPECT_EQ(without.num_selections(), 0);
}

}  // namespace
}  // namespace longspan
