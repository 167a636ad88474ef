#include "launcher/calibrate_options.h"

#include <optional>
#include <string>

#include "absl/flags/declare.h"
#include "absl/flags/flag.h"
#include "absl/flags/reflection.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

ABSL_DECLARE_FLAG(std::string, compare);
ABSL_DECLARE_FLAG(std::string, dims);
ABSL_DECLARE_FLAG(std::string, method);
ABSL_DECLARE_FLAG(std::optional<double>, recall);
ABSL_DECLARE_FLAG(int64_t, sgd_batch);
ABSL_DECLARE_FLAG(int64_t, sgd_seed);

namespace longspan {
namespace {

using ::testing::HasSubstr;

class CalibrateOptionsTest : public ::testing::Test {
 protected:
  static std::string Refusal() { return std::string(ParseCalibrateOptions().status().message()); }

  absl::FlagSaver saver_;
};

TEST_F(CalibrateOptionsTest, FlagsOfGradientDescentNeedIt) {
  absl::SetFlag(&FLAGS_sgd_batch, 64);
  EXPECT_THAT(Refusal(), HasSubstr("--sgd_*"));
  absl::SetFlag(&FLAGS_compare, "pca,sgd_mlp");
  EXPECT_EQ(Refusal(), "");
}

TEST_F(CalibrateOptionsTest, SgdNumbersHaveBounds) {
  absl::SetFlag(&FLAGS_method, "sgd");
  absl::SetFlag(&FLAGS_sgd_batch, 4096);
  EXPECT_EQ(Refusal(), "");
  absl::SetFlag(&FLAGS_sgd_batch, 4097);
  EXPECT_THAT(Refusal(), HasSubstr("sgd_batch"));
  absl::SetFlag(&FLAGS_sgd_batch, 128);
  absl::SetFlag(&FLAGS_sgd_seed, -1);
  EXPECT_THAT(Refusal(), HasSubstr("--sgd_seed must not be negative, as -1 is"));
}

TEST_F(CalibrateOptionsTest, MapsWithoutAPlaceAreOnlyCompared) {
  absl::SetFlag(&FLAGS_method, "sgd_mlp");
  EXPECT_THAT(Refusal(), HasSubstr("two-layer maps have no place"));
  absl::SetFlag(&FLAGS_recall, 0.9);
  EXPECT_THAT(Refusal(), HasSubstr("two-layer maps have no place"));
}

TEST_F(CalibrateOptionsTest, CasesAreOfTheFlagThatCountsForTheTask) {
  const CalibrateOptions writes = *ParseCalibrateOptions();
  const auto one = CasesOf(writes, 48, 64);
  ASSERT_TRUE(one.ok());
  ASSERT_EQ(one->size(), 1);
  EXPECT_EQ((*one)[0].dim, 48);
  EXPECT_THAT(CasesOf(writes, 65, 64).status().message(), HasSubstr("esa.compressed_dim 65"));

  absl::SetFlag(&FLAGS_compare, "pca,closed_form");
  const auto usual = CasesOf(*ParseCalibrateOptions(), 65, 64);
  ASSERT_TRUE(usual.ok());
  ASSERT_EQ(usual->size(), 6);  // 16, 32 and 64 of both
  EXPECT_EQ((*usual)[2].dim, 64);
  EXPECT_EQ((*usual)[3].method, FitMethod::kClosedForm);
  absl::SetFlag(&FLAGS_dims, "8,65");
  EXPECT_THAT(CasesOf(*ParseCalibrateOptions(), 8, 64).status().message(), HasSubstr("--dims 65"));
}

}  // namespace
}  // namespace longspan
