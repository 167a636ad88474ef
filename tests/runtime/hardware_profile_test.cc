#include "runtime/hardware_profile.h"

#include <filesystem>
#include <fstream>
#include <string>

#include "absl/strings/str_replace.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "runtime/job_shape.h"
#include "sharding/prediction.h"

namespace longspan {
namespace {

using ::testing::HasSubstr;

constexpr char kProfile[] = R"(name: test
bytes_per_s: 1e9
flops_per_s: 2e9
memory_bytes: 1000
ranks_per_host: 4
within_host: fast
between_hosts: {latency_s: 0.5, bytes_per_s: 7}
call_s: 0.25
kernels:
  merge: {efficiency: 0.5, overhead_s: 1e-3}
)";

const Links kLinks = {"links.yaml", {{"fast", {.latency_s = 0.125, .bytes_per_s = 9}}}};

std::string ErrorOf(const std::string& from, const std::string& to) {
  const std::string yaml = absl::StrReplaceAll(kProfile, {{from, to}});
  EXPECT_NE(yaml, kProfile) << from;
  return std::string(ParseHardwareProfile(yaml, "test.yaml", kLinks).status().message());
}

TEST(HardwareProfileTest, ReadsAllKeys) {
  const auto profile = ParseHardwareProfile(kProfile, "test.yaml", kLinks);
  ASSERT_TRUE(profile.ok()) << profile.status();
  EXPECT_EQ(profile->name, "test");
  EXPECT_FALSE(profile->is_gpu);
  EXPECT_EQ(profile->bytes_per_s, 1e9);
  EXPECT_EQ(profile->flops_per_s, 2e9);
  EXPECT_EQ(profile->memory_bytes, 1000);
  EXPECT_EQ(profile->ranks_per_host, 4);
  EXPECT_EQ(profile->within_host.latency_s, 0.125);
  EXPECT_EQ(profile->between_hosts.bytes_per_s, 7);
  EXPECT_EQ(profile->call_s, 0.25);
  EXPECT_EQ(profile->kernel(Kernel::kMerge).efficiency, 0.5);
  EXPECT_EQ(profile->kernel(Kernel::kMerge).overhead_s, 1e-3);
  EXPECT_EQ(profile->kernel(Kernel::kLinear).efficiency, 1);
}

TEST(HardwareProfileTest, WhatIsWrittenReadsBack) {
  const auto profile = ParseHardwareProfile(kProfile, "test.yaml", kLinks);
  ASSERT_TRUE(profile.ok());
  const std::string yaml = HardwareProfileToYaml(*profile);
  const auto again = ParseHardwareProfile(yaml, "again.yaml", {});
  ASSERT_TRUE(again.ok()) << again.status();
  EXPECT_EQ(HardwareProfileToYaml(*again), yaml);
}

TEST(HardwareProfileTest, NamesWhatIsWrong) {
  EXPECT_THAT(ErrorOf("call_s", "cal_s"), HasSubstr("test.yaml:8: unknown key `cal_s`"));
  EXPECT_THAT(ErrorOf("merge:", "marge:"), HasSubstr("unknown key `marge` in `kernels`"));
  EXPECT_THAT(ErrorOf("efficiency: 0.5", "efficiency: 0"),
              HasSubstr("`efficiency` must be a number from 1e-06 to 100, not `0`"));
  EXPECT_THAT(ErrorOf("bytes_per_s: 1e9", "bytes_per_s: fast"), HasSubstr("not `fast`"));
  EXPECT_THAT(ErrorOf("bytes_per_s: 1e9", "bytes_per_s: .nan"), HasSubstr("not `.nan`"));
  EXPECT_THAT(ErrorOf("ranks_per_host: 4", "ranks_per_host: 1.5"),
              HasSubstr("`ranks_per_host` must be a whole number"));
  EXPECT_THAT(ErrorOf("ranks_per_host: 4\n", ""), HasSubstr("lacks `ranks_per_host`"));
  EXPECT_THAT(ErrorOf("name: test\n", "name: test\ndevice: tpu\n"),
              HasSubstr("test.yaml:2: `device` must be cpu or cuda, not `tpu`"));
  EXPECT_THAT(ErrorOf("name: test\n", ""), HasSubstr("lacks `name`"));
  EXPECT_THAT(ErrorOf("within_host: fast\n", ""), HasSubstr("lacks `within_host`"));
  EXPECT_THAT(ErrorOf("fast", "slow"), HasSubstr("links.yaml has no link `slow`"));
  EXPECT_THAT(ErrorOf("latency_s: 0.5, ", ""), HasSubstr("`between_hosts` lacks `latency_s`"));
  EXPECT_THAT(ErrorOf("call_s: 0.25", "bytes_per_s: 3"), HasSubstr("stated twice"));
  EXPECT_THAT(ErrorOf("{efficiency", "{[efficiency"), HasSubstr("not valid YAML"));
  EXPECT_THAT(std::string(ParseHardwareProfile("", "f", {}).status().message()),
              HasSubstr("f:1: must be one mapping"));
  EXPECT_THAT(std::string(LoadHardwareProfile("/nonexistent.yaml").status().message()),
              HasSubstr("no such file"));
  EXPECT_THAT(std::string(ParseLinks("a: {latency_s: 1}", "links.yaml").status().message()),
              HasSubstr("links.yaml:1: `a` lacks `bytes_per_s`"));
}

TEST(HardwareProfileTest, FindsLinksBesideItOrElsewhere) {
  const std::string root = ::testing::TempDir() + "/hardware_profile";
  const auto write = [&](const std::string& name, const std::string& text) {
    std::filesystem::create_directories(std::filesystem::path(root + name).parent_path());
    std::ofstream(root + name) << text;
    return root + name;
  };
  const auto error = [](const absl::StatusOr<HardwareProfile>& profile) {
    return std::string(profile.status().message());
  };
  const std::string file = write("/mine/test.yaml", kProfile);
  EXPECT_THAT(error(LoadHardwareProfile(file)),
              HasSubstr("there is no links.yaml beside it with the link `fast`"));
  write("/shipped/links.yaml", "fast: {latency_s: 1, bytes_per_s: 3}\n");
  const auto profile = LoadHardwareProfile(file, {root + "/absent", root + "/shipped"});
  ASSERT_TRUE(profile.ok()) << profile.status();
  EXPECT_EQ(profile->within_host.bytes_per_s, 3);
  const std::string beside = write("/mine/links.yaml", "slow: {latency_s: 1, bytes_per_s: 3}\n");
  EXPECT_THAT(error(LoadHardwareProfile(file, {root + "/shipped"})),
              HasSubstr(beside + " has no link `fast`"));
  std::filesystem::remove_all(root);
}

TEST(HardwareProfileTest, ShippedProfilesLoad) {
  int profiles = 0;
  for (const auto& entry : std::filesystem::directory_iterator(std::string(LONGSPAN_SOURCE_DIR) +
                                                               "/configs/hardware")) {
    if (entry.path().filename() == "links.yaml" || entry.path().extension() != ".yaml") continue;
    const auto profile = LoadHardwareProfile(entry.path().string());
    ASSERT_TRUE(profile.ok()) << profile.status();
    ++profiles;
  }
  EXPECT_GE(profiles, 5);
}

// The selection of a decoded token on GPU ranks, and what it costs with eight of them.
class SelectionAtScale : public testing::Test {
 protected:
  void SetUp() override {
    const std::string source = LONGSPAN_SOURCE_DIR;
    auto profile = LoadHardwareProfile(source + "/configs/hardware/h200.yaml");
    ASSERT_TRUE(profile.ok()) << profile.status();
    profile_ = *profile;
    auto model = LoadModelConfig(source + "/configs/shapes/llama3-8b");
    ASSERT_TRUE(model.ok()) << model.status();
    model_ = *model;
  }

  Prediction Decode(int ranks, int64_t context, bool histogram) const {
    Config config;
    config.prefill_chunk_tokens = int64_t{512} * ranks;
    config.device = "cuda";
    EXPECT_TRUE(SettleConfig(ranks, &config).ok());
    JobShape job = MakeJobShape(config, model_, ranks);
    job.merge = histogram ? MergeWay::kHistogram : MergeWay::kAllGather;
    return PredictDecode(profile_, job, {context}, DrawUniformly(job, 1));
  }
  static double Selection(const Prediction& p) {
    return p.mean[static_cast<int>(Phase::kScore)] +
           p.mean[static_cast<int>(Phase::kCandidateMerge)];
  }

  HardwareProfile profile_;
  ModelConfig model_;
};

// 100 million tokens: with more ranks scores take less and the merge more. The all-gather of 4,096
// ranks has become most of it.
TEST_F(SelectionAtScale, AHistogramKeepsItWithinThreeTimes) {
  constexpr int64_t kTokens = 100'000'000;
  const double eight = Selection(Decode(8, kTokens, false));
  EXPECT_LT(Selection(Decode(4096, kTokens, true)), 3 * eight);
  EXPECT_LT(Selection(Decode(4096, kTokens, true)), Selection(Decode(4096, kTokens, false)));
  EXPECT_GT(Selection(Decode(64, kTokens, true)), Selection(Decode(64, kTokens, false)))
      << "latencies of a histogram's calls";
}

}  // namespace
}  // namespace longspan
