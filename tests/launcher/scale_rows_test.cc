#include "launcher/scale_rows.h"

#include <string>
#include <vector>

#include "absl/strings/str_join.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace longspan {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

ScalePoint PointOf(int64_t context, int64_t ranks, double seconds) {
  ScalePoint point;
  point.key = {"esa", context, 1, ranks};
  point.hosts.assign(ranks, "host");
  point.slots.assign(ranks, ranks);
  point.prefill_s = point.chunks_s = point.first_token_s = point.decode_s = {seconds};
  point.phases.resize(ranks);
  point.peak_bytes.assign(ranks, 0);
  point.digest = OutputsDigest(point.outputs);
  point.machine = {.copy_bytes_per_s = 1, .matmul_flops_per_s = 1};
  return point;
}

StoredStudy StudyOf(const std::vector<ScalePoint>& points) {
  StoredStudy stored;
  for (const ScalePoint& point : points) stored.points.emplace(point.key, point);
  return stored;
}

TEST(ScaleRowsTest, MarksWhatWasMeasuredElsewhere) {
  ScalePoint other = PointOf(64, 4, 0.25);
  other.machine.software = "others";
  const StoredStudy stored = StudyOf({PointOf(64, 1, 1), PointOf(64, 2, 0.5), other});
  std::vector<std::string> notes;
  for (const ScaleRow& row : RowsOf(stored)) notes.push_back(NoteOf(row));
  EXPECT_THAT(notes, ElementsAre("", "", std::string(kElsewhere)));
  EXPECT_DOUBLE_EQ(ScalingOf(stored, {"esa", 64, 1, 2})->prefill, 2);
  EXPECT_FALSE(ScalingOf(stored, {"esa", 64, 1, 4}).has_value());
  EXPECT_TRUE(RowsOf({}).empty());
}

TEST(ScaleRowsTest, FindsSharesAboveAll) {
  for (const double seconds : {0.5, 0.4}) {
    const StoredStudy stored = StudyOf({PointOf(64, 1, 1), PointOf(64, 2, seconds)});
    std::vector<std::string> above;
    for (const ScaleNumber& number : ScaleNumbers()) {
      if (IsAboveAll(number, RowsOf(stored)[1])) above.emplace_back(number.key);
    }
    EXPECT_EQ(absl::StrJoin(above, " "),
              seconds == 0.5 ? "" : "prefill_efficiency decode_efficiency");
  }
}

TEST(IdleTextTest, CountsRanksWithoutAStripe) {
  ScalePoint point = PointOf(2048, 4, 1);
  point.config["parallel.stripe_tokens"] = "1024";
  EXPECT_THAT(IdleText(point), HasSubstr("a prompt has 2 stripes of 1024 tokens, so that 2 of the "
                                         "ranks compute none of it"));
  point.key.context = 3073;
  EXPECT_EQ(IdleText(point), "");
}

}  // namespace
}  // namespace longspan
