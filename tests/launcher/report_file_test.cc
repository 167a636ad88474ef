#include "launcher/report_file.h"

#include <filesystem>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/runtime/file_testing.h"

namespace longspan {
namespace {

using ::longspan::testing::TempDir;
using ::longspan::testing::WriteFile;
using ::testing::HasSubstr;

TEST(CheckReportPathTest, NamesTheFlag) {
  EXPECT_THAT(CheckReportPath("/absent/x").message(), HasSubstr("--output /absent/x: cannot"));
  EXPECT_THAT(CheckReportPath("/absent/x", "stats").message(), HasSubstr("--stats /absent/x"));
  EXPECT_THAT(CheckReportPath("-").message(), HasSubstr("name a file"));
  EXPECT_THAT(CheckReportPath("/").message(), HasSubstr("is a directory"));
}

TEST(CheckReportPathTest, MakesNoFileAndChangesNone) {
  const TempDir directory;
  const std::string fresh = directory / "fresh", old = directory / "old";
  WriteFile(old, "answers");
  EXPECT_TRUE(CheckReportPath(fresh).ok());
  EXPECT_TRUE(CheckReportPath(old).ok());
  EXPECT_FALSE(std::filesystem::exists(fresh));
  EXPECT_EQ(std::filesystem::file_size(old), 7);
}

TEST(CheckReportPathTest, RefusesWhatTheRunReadsOrWrites) {
  const TempDir directory;
  const std::string input = directory / "in.jsonl", link = directory / "link";
  const std::string coming = directory / "out.jsonl";
  WriteFile(input, "prompts");
  std::filesystem::create_symlink(input, link);
  const NamedPath kept[] = {{"input", input}, {"output", coming}, {"unset", ""}};
  const auto message = [&](const std::string& path) {
    return std::string(CheckReportPath(path, "stats", kept).message());
  };
  EXPECT_THAT(message(input), HasSubstr("is also --input"));
  EXPECT_THAT(message(link), HasSubstr("is also --input"));
  EXPECT_THAT(message(coming), HasSubstr("is also --output"));
  EXPECT_THAT(message(directory / "./out.jsonl"), HasSubstr("is also --output"));
  EXPECT_EQ(message(directory / "stats.json"), "");
  EXPECT_THAT(message(directory / "compressor.safetensors"), HasSubstr("weights or a compressor"));
}

}  // namespace
}  // namespace longspan
