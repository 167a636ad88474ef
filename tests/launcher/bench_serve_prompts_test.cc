#include "launcher/bench_serve_prompts.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"

namespace longspan {
namespace {

using ::testing::HasSubstr;
using Json = nlohmann::json;

std::vector<Json> Bodies(const ServePrompts& prompts, const std::vector<std::string>& lines = {}) {
  std::vector<Json> bodies;
  for (const ServeRequest& request : MakeServeRequests(prompts, lines)) {
    bodies.push_back(Json::parse(request.body));
  }
  return bodies;
}

TEST(MakeServeRequests, RandomPromptsShareTheirFirstWords) {
  ServePrompts prompts;
  prompts.num_prompts = 5;
  prompts.input_len = 40;
  prompts.shared_prefix_len = 30;
  prompts.output_len = 9;
  prompts.model = "m";
  const std::vector<Json> bodies = Bodies(prompts);
  ASSERT_EQ(bodies.size(), 5u);
  const std::string first = bodies[0]["prompt"];
  EXPECT_EQ(std::count(first.begin(), first.end(), ' '), 39);
  size_t prefix = 0;
  for (int words = 0; words < 30; ++prefix) words += first[prefix] == ' ';
  for (size_t i = 1; i < bodies.size(); ++i) {
    const std::string text = bodies[i]["prompt"];
    EXPECT_EQ(text.substr(0, prefix), first.substr(0, prefix));
    EXPECT_NE(text, first);
  }
  EXPECT_EQ(bodies[0]["max_tokens"], 9);
  EXPECT_EQ(bodies[0]["model"], "m");
  EXPECT_EQ(bodies[0]["stream"], true);
  EXPECT_EQ(bodies[0]["stream_options"]["include_usage"], true);
  EXPECT_FALSE(bodies[0].contains("ignore_eos"));

  EXPECT_EQ(Bodies(prompts), bodies);
  prompts.num_prompts = 2;
  EXPECT_EQ(Bodies(prompts)[1], bodies[1]) << "fewer prompts are the first of more";
  prompts.seed = 1;
  EXPECT_NE(Bodies(prompts)[0]["prompt"], first);
  prompts.shared_prefix_len = prompts.input_len;
  EXPECT_EQ(Bodies(prompts)[0], Bodies(prompts)[1]);
}

TEST(MakeServeRequests, ChatsAreOneMessage) {
  ServePrompts prompts;
  prompts.is_chat = true;
  prompts.num_prompts = 1;
  prompts.input_len = 1;
  prompts.output_len = 3;
  prompts.ignore_eos = true;
  const std::vector<ServeRequest> requests = MakeServeRequests(prompts, {});
  ASSERT_EQ(requests.size(), 1u);
  EXPECT_EQ(requests[0].expected_tokens, 3);
  const Json body = Json::parse(requests[0].body);
  ASSERT_EQ(body["messages"].size(), 1u);
  EXPECT_EQ(body["messages"][0]["role"], "user");
  EXPECT_TRUE(body["messages"][0]["content"].is_string());
  EXPECT_EQ(body["max_completion_tokens"], 3);
  EXPECT_EQ(body["ignore_eos"], true);
  EXPECT_FALSE(body.contains("prompt"));
}

class ReadDatasetTest : public ::testing::Test {
 protected:
  absl::StatusOr<std::vector<std::string>> Read(const std::string& text, bool is_chat = false) {
    std::ofstream(path_) << text;
    return ReadDataset(path_, is_chat);
  }
  std::string path_ =
      absl::StrCat(::testing::TempDir(), "/serve_prompts_test_",
                   ::testing::UnitTest::GetInstance()->current_test_info()->name(), ".jsonl");
  ~ReadDatasetTest() override { std::filesystem::remove(path_); }
};

TEST_F(ReadDatasetTest, LinesAreUsedAsOftenAsItTakes) {
  const auto lines = Read("{\"prompt\":\"a\",\"n\":2}\r\n\n{\"body\":{\"prompt\":[1,2]}}");
  ASSERT_TRUE(lines.ok()) << lines.status();
  ServePrompts prompts;
  EXPECT_EQ(Bodies(prompts, *lines).size(), 2u);
  prompts.num_prompts = 3;
  const std::vector<Json> bodies = Bodies(prompts, *lines);
  ASSERT_EQ(bodies.size(), 3u);
  EXPECT_EQ(bodies[0]["n"], 2);
  EXPECT_EQ(bodies[1]["prompt"], Json({1, 2}));
  EXPECT_EQ(bodies[2], bodies[0]);
  EXPECT_FALSE(bodies[0].contains("max_tokens"));
}

TEST_F(ReadDatasetTest, BadLinesAreNamed) {
  const auto refusal = [&](const std::string& line, bool is_chat = false) {
    return std::string(
        Read(absl::StrCat("{\"prompt\":\"a\"}\n\n", line, "\n"), is_chat).status().message());
  };
  EXPECT_THAT(refusal("{"), HasSubstr(".jsonl:3: is not a JSON object"));
  EXPECT_THAT(refusal("{\"prompt\":null}"), HasSubstr(":3: `prompt` is neither"));
  EXPECT_THAT(refusal("{\"prompt\":[]}"), HasSubstr(":3: `prompt` is empty"));
  EXPECT_THAT(refusal("{\"prompt\":\"\xff\"}"), HasSubstr(":3: "));
  EXPECT_THAT(refusal("{\"messages\":[]}", true), HasSubstr(":3: `messages` is not a list"));
  EXPECT_THAT(refusal("{}", true), HasSubstr(":3: has neither"));
}

}  // namespace
}  // namespace longspan
