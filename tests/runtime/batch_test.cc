#include "runtime/batch.h"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <filesystem>
#include <fstream>
#include <limits>
#include <nlohmann/json.hpp>
#include <string>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"

namespace longspan {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;
using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

std::string RequestLine(const std::string& id, const std::string& body) {
  return absl::StrCat(R"({"custom_id":")", id,
                      R"(","method":"POST","url":"/v1/completions","body":)", body, "}");
}

std::string Ask(const std::string& id) { return RequestLine(id, R"({"prompt":"hello"})"); }

BatchRequest ParseBody(const std::string& body) { return ParseBatchLine(RequestLine("a", body)); }

std::string Message(const BatchRequest& request) {
  return request.error ? request.error->message : "no error";
}

TEST(ParseBatchLine, ReadsEveryParameter) {
  const BatchRequest request = ParseBody(
      R"({"model":"m","prompt":"a\u00e9\ud83d\ude00","max_tokens":7,"temperature":0.5,"top_p":1,)"
      R"("seed":-3,"stop":["x","y"],"ignore_eos":true,"echo":true,"logprobs":2,"user":"u","n":1,)"
      R"("stream":false,"best_of":1.0,"presence_penalty":0,"frequency_penalty":-0.0,"suffix":"",)"
      R"("logit_bias":{},"repetition_penalty":1.0,"length_penalty":1,"use_beam_search":false,)"
      R"("min_p":0,"min_tokens":0,"stop_token_ids":[],"skip_special_tokens":true,)"
      R"("include_stop_str_in_output":false})");
  ASSERT_FALSE(request.error.has_value()) << Message(request);
  EXPECT_EQ(request.custom_id, "a");
  EXPECT_EQ(request.model, "m");
  EXPECT_EQ(request.prompt_text, "aé😀");
  EXPECT_FALSE(request.is_tokenized);
  EXPECT_EQ(request.sampling.max_tokens, 7);
  EXPECT_EQ(request.sampling.temperature, 0.5);
  EXPECT_EQ(request.sampling.top_p, 1);
  EXPECT_EQ(request.sampling.seed, static_cast<uint64_t>(-3));
  EXPECT_THAT(request.sampling.stop, ElementsAre("x", "y"));
  EXPECT_TRUE(request.sampling.ignore_eos);
  EXPECT_TRUE(request.sampling.echo);
  EXPECT_EQ(request.sampling.logprobs, 2);
}

TEST(ParseBatchLine, DefaultsAreTheApis) {
  const BatchRequest request = ParseBody(
      R"({"prompt":[0,2147483647],"max_tokens":null,"temperature":null,"stop":null,"seed":null,)"
      R"("logprobs":null,"echo":null,"n":null,"user":null,"model":null,"suffix":null,)"
      R"("logit_bias":null,"repetition_penalty":null,"stop_token_ids":null})");
  ASSERT_FALSE(request.error.has_value()) << Message(request);
  EXPECT_TRUE(request.is_tokenized);
  EXPECT_THAT(request.prompt_tokens, ElementsAre(0, 2147483647));
  EXPECT_EQ(request.sampling.max_tokens, 16);
  EXPECT_EQ(request.sampling.temperature, 1);
  EXPECT_FALSE(request.sampling.seed.has_value());  // BatchInput::Read sets it by custom_id
  EXPECT_FALSE(request.sampling.logprobs.has_value());
}

TEST(ParseBatchLine, OneStopIsAListOfOne) {
  EXPECT_THAT(ParseBody(R"({"prompt":"p","stop":"\n"})").sampling.stop, ElementsAre("\n"));
}

std::string ChatLine(const std::string& body) {
  return absl::StrCat(R"({"custom_id":"a","method":"POST","url":"/v1/chat/completions","body":)",
                      body, "}");
}

TEST(ParseBatchLine, ReadsAChat) {
  const BatchRequest request = ParseBatchLine(ChatLine(
      R"({"messages":[{"role":"system","content":"s"},{"role":"user","content":[)"
      R"({"type":"text","text":"a"},{"type":"text","text":"b"}]},{"role":"assistant","content":null,)"
      R"("tool_calls":[{"id":"1","function":{"name":"f","arguments":{"z":1,"a":[2]}}}]}],)"
      R"("tools":[{"type":"function"}],"tool_choice":"auto","max_completion_tokens":9,)"
      R"("logprobs":true,"top_logprobs":3,"chat_template_kwargs":{"enable_thinking":false},)"
      R"("add_generation_prompt":false,"model":"m","stop":"x"})"));
  ASSERT_FALSE(request.error.has_value()) << Message(request);
  ASSERT_TRUE(request.chat.has_value());
  EXPECT_EQ(request.chat->messages.dump(),
            R"([{"role":"system","content":"s"},{"role":"user","content":"ab"},)"
            R"({"role":"assistant","content":null,"tool_calls":[{"id":"1","function":)"
            R"({"name":"f","arguments":{"z":1,"a":[2]}}}]}])");
  EXPECT_EQ(request.chat->tools.dump(), R"([{"type":"function"}])");
  EXPECT_EQ(request.chat->template_kwargs.dump(), R"({"enable_thinking":false})");
  EXPECT_FALSE(request.chat->add_generation_prompt);
  EXPECT_TRUE(request.states_max_tokens);
  EXPECT_EQ(request.sampling.max_tokens, 9);
  EXPECT_EQ(request.sampling.logprobs, 3);
  EXPECT_EQ(request.model, "m");
}

TEST(ParseBatchLine, ChatDefaults) {
  const BatchRequest request =
      ParseBatchLine(ChatLine(R"({"messages":[],"tools":null,"logprobs":false})"));
  ASSERT_FALSE(request.error.has_value()) << Message(request);
  EXPECT_TRUE(request.chat->messages.empty());
  EXPECT_TRUE(request.chat->tools.is_null());
  EXPECT_TRUE(request.chat->add_generation_prompt);
  EXPECT_FALSE(request.states_max_tokens);
  EXPECT_FALSE(request.sampling.logprobs.has_value());
  // The URL may come last.
  EXPECT_TRUE(ParseBatchLine(R"({"body":{"messages":[]},"custom_id":"a","method":"POST",)"
                             R"("url":"/v1/chat/completions"})")
                  .chat.has_value());
}

TEST(ParseBatchLine, WhatIsWrongWithAChatIsNamed) {
  const struct {
    const char* body;
    const char* param;
    const char* message;
  } cases[] = {
      {"{}", "messages", "`messages` is missing"},
      {R"({"prompt":"p"})", "prompt", "`prompt` is no parameter of /v1/chat/completions"},
      {R"({"messages":[],"echo":true})", "echo", "no parameter of"},
      {R"({"messages":"hi"})", "messages", "a list of messages"},
      {R"({"messages":["hi"]})", "messages", "objects with a `role`"},
      {R"({"messages":[{"content":"hi"}]})", "messages", "objects with a `role`"},
      {R"({"messages":[{"role":"user","content":3}]})", "messages", "text, or a list of text"},
      {R"({"messages":[{"role":"user","content":[{"type":"image_url"}]}]})", "messages",
       "text, or a list of text parts"},
      {R"({"messages":[],"tools":{}})", "tools", "a list of objects"},
      {R"({"messages":[],"tools":[1]})", "tools", "a list of objects"},
      {R"({"messages":[],"max_tokens":1,"max_completion_tokens":1})", "max_completion_tokens",
       "state one"},
      {R"({"messages":[],"tool_choice":"required"})", "tool_choice", "must be \"auto\""},
      {R"({"messages":[],"chat_template_kwargs":[]})", "chat_template_kwargs", "an object"},
      {R"({"messages":[],"logprobs":2})", "logprobs", "true or false"},
      {R"({"messages":[],"top_logprobs":2})", "top_logprobs", "needs `logprobs` to be true"},
      {R"({"messages":[],"logprobs":true,"top_logprobs":21})", "top_logprobs", "from 0 to 20"},
      {R"({"messages":[],"n":2})", "n", "must be 1"},
      {R"({"messages":[],"foo":2})", "foo", "unknown parameter `foo`"},
  };
  for (const auto& expected : cases) {
    const BatchRequest request = ParseBatchLine(ChatLine(expected.body));
    EXPECT_THAT(Message(request), HasSubstr(expected.message)) << expected.body;
    ASSERT_TRUE(request.error.has_value());
    EXPECT_EQ(request.error->param, expected.param) << expected.body;
    EXPECT_FALSE(request.chat.has_value());
  }
  EXPECT_THAT(Message(ParseBody(R"({"prompt":"p","messages":[]})")),
              HasSubstr("`messages` is no parameter of /v1/completions"));
  EXPECT_THAT(Message(ParseBody(R"({"prompt":"p","logprobs":true})")),
              HasSubstr("an integer from 0 to 20"));
  std::string many = R"({"messages":[)";
  for (int i = 0; i < 60'000; ++i) absl::StrAppend(&many, i == 0 ? "" : ",", "[0]");
  EXPECT_THAT(Message(ParseBatchLine(ChatLine(many + "]}"))), HasSubstr("fewer than 100000"));
  // Wherever in the line: all of it is read.
  std::string keys = "{";
  for (int i = 0; i < 300; ++i) absl::StrAppend(&keys, i == 0 ? "" : ",", "\"k", i, "\":1");
  keys += "}";
  EXPECT_THAT(Message(ParseBatchLine(ChatLine(
                  absl::StrCat(R"({"messages":[{"role":"user","content":"","x":)", keys, "}]}")))),
              HasSubstr("at most 256 keys"));
  EXPECT_THAT(
      Message(ParseBatchLine(absl::StrCat(
          R"({"expected":)", keys,
          R"(,"custom_id":"a","method":"POST","url":"/v1/chat/completions","body":{"messages":[]}})"))),
      HasSubstr("at most 256 keys"));
}

TEST(ParseBatchLine, OtherKeysOfTheLineAreIgnored) {
  const BatchRequest request =
      ParseBatchLine(R"({"expected":{"prompt":[{"body":1}]},"custom_id":"a","method":"POST",)"
                     R"("url":"/v1/completions","body":{"prompt":"p"},"prompt":5})");
  EXPECT_FALSE(request.error.has_value()) << Message(request);
  EXPECT_EQ(request.prompt_text, "p");
}

TEST(ParseBatchLine, WrongParametersNameTheKey) {
  const struct {
    std::string body;
    std::string param;
    std::string message;
  } cases[] = {
      {R"({})", "prompt", "`prompt` is missing"},
      {R"({"prompt":null})", "prompt", "one text or one list of token ids"},
      {R"({"prompt":5})", "prompt", "one text or one list"},
      {R"({"prompt":["a","b"]})", "prompt", "one text or one list"},
      {R"({"prompt":[[1],[2]]})", "prompt", "one text or one list"},
      {R"({"prompt":{"a":1}})", "prompt", "one text or one list"},
      {R"({"prompt":[1.0]})", "prompt", "`prompt` has 1.0, which is no token id"},
      {R"({"prompt":[0,-1]})", "prompt", "`prompt` has -1, which is no token id"},
      {R"({"prompt":[2147483648]})", "prompt", "has 2147483648, which"},
      {R"({"prompt":[18446744073709551616]})", "prompt", "has 1.8446744073709552e+19, which"},
      {R"({"prompt":[null]})", "prompt", "one text or one list"},
      {R"({"prompt":"a","prompt":"b"})", "prompt", "`body.prompt` is stated twice"},
      {R"({"prompt":"a","max_tokens":"5"})", "max_tokens", "an integer from 0"},
      {R"({"prompt":"a","max_tokens":5.0})", "max_tokens", "an integer from 0"},
      {R"({"prompt":"a","max_tokens":-1})", "max_tokens", "an integer from 0"},
      {R"({"prompt":"a","max_tokens":[5]})", "max_tokens", "a single value"},
      {R"({"prompt":"a","max_tokens":99999999999999999999})", "max_tokens", "an integer from 0"},
      {R"({"prompt":"a","temperature":-0.1})", "temperature", "from 0 to 2"},
      {R"({"prompt":"a","temperature":true})", "temperature", "from 0 to 2"},
      {R"({"prompt":"a","top_p":0})", "top_p", "above 0"},
      {R"({"prompt":"a","seed":1.5})", "seed", "an integer"},
      {R"({"prompt":"a","stop":""})", "stop", "none of them empty"},
      {R"({"prompt":"a","stop":[1]})", "stop", "a list of at most 16 texts"},
      {R"({"prompt":"a","stop":[["b"]]})", "stop", "a single value"},
      {R"({"prompt":"a","stop":["1","2","3","4","5","6","7","8","9","a","b","c","d","e","f","g",)"
       R"("h"]})",
       "stop", "at most 16"},
      {R"({"prompt":"a","echo":1})", "echo", "true or false"},
      {R"({"prompt":"a","ignore_eos":"true"})", "ignore_eos", "true or false"},
      {R"({"prompt":"a","logprobs":true})", "logprobs", "an integer from 0 to 20"},
      {R"({"prompt":"a","logprobs":21})", "logprobs", "an integer from 0 to 20"},
      {R"({"prompt":"a","model":7})", "model", "text"},
      {R"({"prompt":"a","n":2})", "n", "must be 1"},
      {R"({"prompt":"a","n":true})", "n", "must be 1"},
      {R"({"prompt":"a","stream":true})", "stream", "must be false"},
      {R"({"prompt":"a","stream":0})", "stream", "must be false"},
      {R"({"prompt":"a","presence_penalty":0.5})", "presence_penalty", "must be 0"},
      {R"({"prompt":"a","min_p":5})", "min_p", "must be 0"},
      {R"({"prompt":"a","repetition_penalty":1.1})", "repetition_penalty", "must be 1"},
      {R"({"prompt":"a","skip_special_tokens":false})", "skip_special_tokens", "must be true"},
      {R"({"prompt":"a","suffix":"z"})", "suffix", "must be \"\""},
      {R"({"prompt":"a","suffix":0})", "suffix", "must be \"\""},
      {R"({"prompt":"a","logit_bias":{"5":1}})", "logit_bias", "must be {}"},
      {R"({"prompt":"a","logit_bias":{"5":{}}})", "logit_bias", "must be {}"},
      {R"({"prompt":"a","logit_bias":[]})", "logit_bias", "must be {}"},
      {R"({"prompt":"a","logit_bias":0})", "logit_bias", "must be {}"},
      {R"({"prompt":"a","stop_token_ids":[1]})", "stop_token_ids", "must be []"},
      {R"({"prompt":"a","stop_token_ids":[[]]})", "stop_token_ids", "must be []"},
      {R"({"prompt":"a","guided_json":{}})", "guided_json", "unknown parameter"},
  };
  for (const auto& wrong : cases) {
    const BatchRequest request = ParseBody(wrong.body);
    ASSERT_TRUE(request.error.has_value()) << wrong.body;
    EXPECT_EQ(request.error->param, wrong.param) << wrong.body;
    EXPECT_THAT(request.error->message, HasSubstr(wrong.message)) << wrong.body;
    EXPECT_EQ(request.custom_id, "a");
  }
}

TEST(ParseBatchLine, WrongLinesAreErrors) {
  const std::pair<std::string, std::string> cases[] = {
      {R"({"method":"POST","url":"/v1/completions","body":{"prompt":"p"}})",
       "`custom_id` is missing"},
      {R"({"custom_id":5,"method":"POST","url":"/v1/completions","body":{"prompt":"p"}})",
       "`custom_id` must be a text"},
      {R"({"custom_id":["a"],"method":"POST","url":"/v1/completions","body":{"prompt":"p"}})",
       "`custom_id` must be text"},
      {R"({"custom_id":"","method":"POST","url":"/v1/completions","body":{"prompt":"p"}})",
       "`custom_id` must be a text of 1"},
      {R"({"custom_id":"a","url":"/v1/completions","body":{"prompt":"p"}})", "`method` is missing"},
      {R"({"custom_id":"a","method":"GET","url":"/v1/completions","body":{"prompt":"p"}})",
       "`method` must be"},
      {R"({"custom_id":"a","method":"POST","url":"/v1/embeddings","body":{"prompt":"p"}})",
       "`url` must be \"/v1/completions\""},
      {R"({"custom_id":"a","method":"POST","url":"/v1/completions"})", "`body` is missing"},
      {R"({"custom_id":"a","method":"POST","url":"/v1/completions","body":"p"})",
       "`body` must be an object"},
      {R"({"custom_id":"a","method":"POST","url":"/v1/completions","body":["p"]})",
       "`body` must be an object"},
      {R"({"custom_id":"a","custom_id":"b","method":"POST","url":"/v1/completions","body":{}})",
       "`custom_id` is stated twice"},
      {"[]", "a line must be a JSON object"},
      {"5", "a line must be a JSON object"},
      {"null", "a line must be a JSON object"},
  };
  for (const auto& [line, message] : cases) {
    EXPECT_THAT(Message(ParseBatchLine(line)), HasSubstr(message)) << line;
  }
}

TEST(ParseBatchLine, HostileJsonIsAnError) {
  const std::string cases[] = {
      "",
      "{",
      "}",
      "{]",
      R"({"custom_id":"a")",
      "{\"custom_id\":\"a\"}}",
      "{\"custom_id\":\"a\",}",
      RequestLine("a", R"({"prompt":"p","temperature":NaN})"),
      RequestLine("a", R"({"prompt":"p","temperature":Infinity})"),
      RequestLine("a", R"({"prompt":"p","temperature":1e999})"),
      RequestLine("a", R"({"prompt":"p","temperature":01})"),
      RequestLine("a", "{\"prompt\":\"\xff\"}"),
      RequestLine("a", "{\"prompt\":\"\xc0\x80\"}"),
      RequestLine("a", "{\"prompt\":\"\xed\xa0\x80\"}"),
      RequestLine("a", R"({"prompt":"\ud800"})"),
      RequestLine("a", R"({"prompt":"\x"})"),
      RequestLine("a", "{\"prompt\":\"\t\"}"),
      RequestLine("a", std::string("{\"prompt\":\"\0\"}", 14)),
      RequestLine("a", std::string(1000000, '[')),
      RequestLine("a", R"({"prompt":"p"})") + "x",
      std::string(1000000, '['),
      std::string(1000000, '{'),
  };
  for (const std::string& line : cases) {
    const BatchRequest request = ParseBatchLine(line);
    EXPECT_TRUE(request.error.has_value()) << line.substr(0, 100);
    EXPECT_EQ(request.custom_id, "") << "a malformed line has no id: " << line.substr(0, 100);
    EXPECT_LT(Message(request).size(), 200u);
  }
  EXPECT_THAT(Message(ParseBatchLine(RequestLine("a", "{\"prompt\":\"\xff\"}"))),
              HasSubstr("ill-formed UTF-8"));
  std::string deep = "1";
  for (int i = 0; i < 33; ++i) deep = absl::StrCat("[", deep, "]");
  EXPECT_THAT(Message(ParseBatchLine(absl::StrCat("{\"x\":", deep, "}"))), HasSubstr("nested"));
}

class BatchFilesTest : public ::testing::Test {
 protected:
  BatchFilesTest() {
    directory_ = fs::path(::testing::TempDir()) /
                 absl::StrCat("batch_test_",
                              ::testing::UnitTest::GetInstance()->current_test_info()->name());
    fs::remove_all(directory_);
    fs::create_directories(directory_);
    input_path_ = directory_ / "in.jsonl";
    output_path_ = directory_ / "out.jsonl";
  }
  ~BatchFilesTest() override { fs::remove_all(directory_); }

  static void Write(const std::string& path, const std::string& text) {
    std::ofstream(path, std::ios::binary) << text;
  }
  static std::string Contents(const std::string& path) {
    std::ifstream file(path, std::ios::binary);
    return {std::istreambuf_iterator<char>(file), {}};
  }

  std::unique_ptr<BatchInput> Input(const std::string& text) {
    Write(input_path_, text);
    absl::StatusOr<std::unique_ptr<BatchInput>> input = BatchInput::Open(input_path_);
    EXPECT_TRUE(input.ok()) << input.status();
    return *std::move(input);
  }
  std::unique_ptr<BatchInput> InputOfIds(const std::vector<std::string>& ids) {
    std::string text;
    for (const std::string& id : ids) absl::StrAppend(&text, Ask(id), "\n");
    return Input(text);
  }
  std::unique_ptr<BatchOutput> Output(const BatchInput& input) {
    absl::StatusOr<std::unique_ptr<BatchOutput>> output = BatchOutput::Open(output_path_, input);
    EXPECT_TRUE(output.ok()) << output.status();
    return *std::move(output);
  }

  fs::path directory_;
  std::string input_path_;
  std::string output_path_;
};

TEST_F(BatchFilesTest, InputFindsLines) {
  const auto input = Input(absl::StrCat(Ask("a"), "\n\n  \r\n", Ask("b"), "\r\n{bad\n", Ask("c")));
  ASSERT_EQ(input->lines().size(), 4u);
  EXPECT_EQ(input->lines()[0].custom_id, "a");
  EXPECT_EQ(input->lines()[1].custom_id, "b");
  EXPECT_EQ(input->lines()[1].number, 4);
  EXPECT_EQ(input->lines()[2].custom_id, "");
  EXPECT_EQ(input->lines()[3].custom_id, "c");
  for (const int i : {3, 0, 1}) {
    const absl::StatusOr<BatchRequest> request = input->Read(input->lines()[i]);
    ASSERT_TRUE(request.ok()) << request.status();
    EXPECT_FALSE(request->error.has_value()) << Message(*request);
    EXPECT_EQ(request->prompt_text, "hello");
  }
  EXPECT_THAT(Message(*input->Read(input->lines()[2])), HasSubstr("line 5: not valid JSON"));
}

TEST_F(BatchFilesTest, LinesMayCrossTheReadBuffer) {
  std::string text;
  for (int i = 0; i < 7; ++i) {
    const std::string prompt(static_cast<size_t>(1) << (16 + i % 6), static_cast<char>('a' + i));
    absl::StrAppend(
        &text, RequestLine(absl::StrCat(i), absl::StrCat("{\"prompt\":\"", prompt, "\"}")), "\n");
  }
  const auto input = Input(text);
  ASSERT_EQ(input->lines().size(), 7u);
  for (int i = 0; i < 7; ++i) {
    const absl::StatusOr<BatchRequest> request = input->Read(input->lines()[i]);
    ASSERT_TRUE(request.ok()) << request.status();
    EXPECT_EQ(request->prompt_text,
              std::string(static_cast<size_t>(1) << (16 + i % 6), static_cast<char>('a' + i)));
  }
}

TEST_F(BatchFilesTest, LongLinesAreRefusedAloneAndNotRead) {
  const std::string longest(3 << 20, 'x');
  Write(input_path_, absl::StrCat(Ask("a"), "\n", RequestLine("b", longest), "\n", Ask("c"), "\n"));
  const auto input = BatchInput::Open(input_path_, /*max_line_bytes=*/1000);
  ASSERT_TRUE(input.ok()) << input.status();
  ASSERT_EQ((*input)->lines().size(), 3u);
  EXPECT_THAT(Message(*(*input)->Read((*input)->lines()[1])),
              HasSubstr("line 2 is longer than 1000 bytes"));
  EXPECT_EQ((*input)->Read((*input)->lines()[2])->custom_id, "c");
}

TEST_F(BatchFilesTest, DuplicateIdsAreRefused) {
  Write(input_path_, absl::StrCat(Ask("a"), "\n", Ask("b"), "\n", Ask("a"), "\n"));
  const absl::Status status = BatchInput::Open(input_path_).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(status.message(), AllOf(HasSubstr("in.jsonl:3"), HasSubstr("line 1")));
  // Even if one of them is wrong in another way.
  Write(input_path_, absl::StrCat(Ask("a"), "\n", RequestLine("a", "{\"prompt\":5}"), "\n"));
  EXPECT_FALSE(BatchInput::Open(input_path_).ok());
}

TEST_F(BatchFilesTest, InputMustBeAFile) {
  EXPECT_THAT(BatchInput::Open(directory_ / "absent").status().message(), HasSubstr("absent"));
  EXPECT_THAT(BatchInput::Open(directory_).status().message(), HasSubstr("not a regular file"));
}

TEST_F(BatchFilesTest, ChangedInputIsAnError) {
  const auto input = InputOfIds({"a", "b"});
  Write(input_path_, Ask("b") + "\n" + Ask("a"));
  EXPECT_TRUE(input->Read(input->lines()[0]).status().code() ==
              absl::StatusCode::kFailedPrecondition);
  Write(input_path_, "");
  EXPECT_FALSE(input->Read(input->lines()[1]).ok());
}

TEST_F(BatchFilesTest, StandardInputIsSpooled) {
  Write(input_path_, Ask("a") + "\n" + Ask("b") + "\n");
  const int saved = dup(STDIN_FILENO);
  const int fd = open(input_path_.c_str(), O_RDONLY);
  dup2(fd, STDIN_FILENO);
  const auto input = BatchInput::Open("-");
  dup2(saved, STDIN_FILENO);
  close(saved);
  close(fd);
  fs::remove(input_path_);
  ASSERT_TRUE(input.ok()) << input.status();
  ASSERT_EQ((*input)->lines().size(), 2u);
  EXPECT_EQ((*input)->Read((*input)->lines()[1])->custom_id, "b");
}

TEST_F(BatchFilesTest, RerunKeepsAnswersByteForByteAndDropsTheRest) {
  const auto input = InputOfIds({"a", "b", "c"});
  const std::string a = AnswerLine("a", R"({"usage":  {}})");
  const std::string c = AnswerLine("c", "{}");
  const std::string elsewhere = ErrorLine("not asked", {"m", "p"});
  {
    const auto output = Output(*input);
    for (const std::string& line :
         {a, ErrorLine("b", {"m", "p"}), elsewhere, ErrorLine("", {"m", ""}), c}) {
      ASSERT_TRUE(output->Append(line).ok());
    }
  }
  Write(output_path_, Contents(output_path_) + AnswerLine("b", "{}").substr(0, 50));
  {
    const auto output = Output(*input);
    EXPECT_TRUE(output->IsAnswered("a"));
    EXPECT_FALSE(output->IsAnswered("b"));
    EXPECT_TRUE(output->IsAnswered("c"));
    EXPECT_FALSE(output->IsAnswered("not asked"));
    EXPECT_FALSE(output->IsAnswered(""));
    EXPECT_EQ(Contents(output_path_), absl::StrCat(a, "\n", elsewhere, "\n", c, "\n"));
    ASSERT_TRUE(output->Append(AnswerLine("b", "{}")).ok());
  }
  const std::string complete = Contents(output_path_);
  EXPECT_TRUE(Output(*input)->IsAnswered("b"));
  EXPECT_EQ(Contents(output_path_), complete);
  EXPECT_FALSE(fs::exists(output_path_ + ".longspan-tmp"));
}

TEST_F(BatchFilesTest, EveryTornEndIsDropped) {
  const auto input = InputOfIds({"a", "b"});
  const std::string a = AnswerLine("a", "{}") + "\n";
  const std::string b = AnswerLine("b", "{}") + "\n";
  for (size_t bytes = 0; bytes <= b.size(); ++bytes) {
    Write(output_path_, a + b.substr(0, bytes));
    const auto output = Output(*input);
    EXPECT_TRUE(output->IsAnswered("a"));
    EXPECT_EQ(output->IsAnswered("b"), bytes == b.size()) << bytes;
    EXPECT_EQ(Contents(output_path_), bytes == b.size() ? a + b : a) << bytes;
  }
}

TEST_F(BatchFilesTest, OtherFilesAreLeftAlone) {
  const auto input = InputOfIds({"a"});
  const std::string ours = AnswerLine("a", "{}");
  const std::string cases[] = {
      "hello",
      "hello\n",
      "{}",
      "{}\n",
      "\n",
      Ask("a") + "\n",
      ours + "\nhello\n",
      ours + "\nhello",
      ours + "\n\n" + ours + "\n",
      "[" + ours + "]\n",
      absl::StrReplaceAll(ours, {{"\"response\"", "\"answer\""}}) + "\n",
      absl::StrReplaceAll(ours, {{"\"id\"", "\"di\""}}) + "\n",
      std::string(1000000, '['),
      std::string(100, '\0'),
  };
  for (const std::string& text : cases) {
    Write(output_path_, text);
    const absl::Status status = BatchOutput::Open(output_path_, *input).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition) << text.substr(0, 60);
    EXPECT_EQ(Contents(output_path_), text);
  }
  const absl::Status status = BatchOutput::Open(input_path_, *input).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(status.message(), HasSubstr("is the input"));
  EXPECT_FALSE(BatchOutput::Open(directory_, *input).ok());
  EXPECT_FALSE(BatchOutput::Open(directory_ / "absent" / "out", *input).ok());
}

TEST_F(BatchFilesTest, OneRunAtATime) {
  const auto input = InputOfIds({"a"});
  Write(output_path_, ErrorLine("a", {"m", "p"}) + "\n");
  auto first = Output(*input);  // has replaced the file
  const absl::Status status = BatchOutput::Open(output_path_, *input).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(status.message(), HasSubstr("another run"));
  first.reset();
  EXPECT_TRUE(BatchOutput::Open(output_path_, *input).ok());
}

TEST_F(BatchFilesTest, LinksAndModesSurviveARewrite) {
  const auto input = InputOfIds({"a"});
  const std::string target = directory_ / "target.jsonl";
  Write(target, ErrorLine("a", {"m", "p"}) + "\n");
  fs::permissions(target, fs::perms::owner_read | fs::perms::owner_write);
  fs::create_symlink("target.jsonl", output_path_);
  ASSERT_TRUE(Output(*input)->Append(AnswerLine("a", "{}")).ok());
  EXPECT_TRUE(fs::is_symlink(output_path_));
  EXPECT_TRUE(absl::StartsWith(Contents(target), "{\"id\":"));
  EXPECT_EQ(fs::status(target).permissions(), fs::perms::owner_read | fs::perms::owner_write);
}

TEST_F(BatchFilesTest, DevicesAreOnlyWrittenTo) {
  const auto input = InputOfIds({"a"});
  const auto output = BatchOutput::Open("/dev/null", *input);
  ASSERT_TRUE(output.ok()) << output.status();
  EXPECT_TRUE((*output)->Append("line").ok());
  const auto full = BatchOutput::Open("/dev/full", *input);
  ASSERT_TRUE(full.ok()) << full.status();
  EXPECT_THAT((*full)->Append("line").message(), HasSubstr("cannot write"));
}

// A process that answers as fast as it can is killed over and over; its answers accumulate.
TEST_F(BatchFilesTest, KilledWritersLoseNothing) {
  std::vector<std::string> ids;
  for (int i = 0; i < 200; ++i) ids.push_back(absl::StrCat("id-", i));
  const auto input = InputOfIds(ids);
  std::string before;
  int finished = 0;
  for (int round = 0; round < 200 && finished == 0; ++round) {
    const pid_t child = fork();
    if (child == 0) {
      absl::StatusOr<std::unique_ptr<BatchOutput>> output = BatchOutput::Open(output_path_, *input);
      if (!output.ok()) _exit(2);
      for (size_t i = 0; i < ids.size(); ++i) {
        if ((*output)->IsAnswered(ids[i])) continue;
        const bool fails = (i + static_cast<size_t>(round)) % 5 == 0 && round < 20;
        const std::string line =
            fails ? ErrorLine(ids[i], {"m", ""})
                  : AnswerLine(ids[i], absl::StrCat("{\"pad\":\"", std::string(5000, 'x'), "\"}"));
        if (!(*output)->Append(line).ok()) _exit(2);
      }
      _exit(round < 20 ? 3 : 0);
    }
    usleep(static_cast<useconds_t>(500 * (1 + round * 7 % 23)));
    if (round < 60) kill(child, SIGKILL);
    int status = 0;
    ASSERT_EQ(waitpid(child, &status, 0), child);
    if (WIFEXITED(status)) {
      ASSERT_NE(WEXITSTATUS(status), 2);
      finished = WEXITSTATUS(status) == 0;
    }
    // Whole lines that were answers are still there, the same bytes.
    const std::string now = Contents(output_path_);
    size_t position = 0;
    for (size_t end; (end = before.find('\n', position)) != before.npos; position = end + 1) {
      const std::string line = before.substr(position, end + 1 - position);
      if (absl::StrContains(line, "\"status_code\":200")) {
        ASSERT_TRUE(absl::StrContains(now, line)) << "round " << round;
      }
    }
    before = now;
  }
  ASSERT_EQ(finished, 1);
  const auto output = Output(*input);
  for (const std::string& id : ids) EXPECT_TRUE(output->IsAnswered(id)) << id;
  EXPECT_EQ(std::count(before.begin(), before.end(), '\n'), 200);
}

// Bytes as tokens: 0 "a", 1 "b", 2 and 3 the two bytes of "é".
std::unique_ptr<Tokenizer> SmallTokenizer() {
  absl::StatusOr<std::unique_ptr<Tokenizer>> tokenizer = Tokenizer::Parse(R"({
      "version": "1.0",
      "added_tokens": [],
      "normalizer": null,
      "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true,
                        "use_regex": true},
      "post_processor": null,
      "decoder": {"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true,
                  "use_regex": true},
      "model": {"type": "BPE", "vocab": {"a": 0, "b": 1, "Ã": 2, "©": 3}, "merges": []}})");
  EXPECT_TRUE(tokenizer.ok()) << tokenizer.status();
  return *std::move(tokenizer);
}

Completion SmallCompletion() {
  Completion completion;
  completion.tokens = {2, 3, 1};
  completion.text = "éb";
  completion.finish_reason = FinishReason::kStop;
  return completion;
}

TEST(CompletionBody, IsThatOfTheApi) {
  const auto tokenizer = SmallTokenizer();
  CompletionContext context;
  context.model = "needle";
  context.prompt_tokens = 2;
  const json body = json::parse(CompletionBody(context, SmallCompletion(), *tokenizer));
  EXPECT_EQ(body["object"], "text_completion");
  EXPECT_EQ(body["model"], "needle");
  EXPECT_THAT(body["id"].get<std::string>(), HasSubstr("cmpl-"));
  EXPECT_GT(body["created"].get<int64_t>(), 1600000000);
  ASSERT_TRUE(body["choices"].is_array());
  ASSERT_EQ(body["choices"].size(), 1u);
  EXPECT_EQ(body["choices"][0]["index"], 0);
  EXPECT_EQ(body["choices"][0]["text"], "éb");
  EXPECT_EQ(body["choices"][0]["finish_reason"], "stop");
  EXPECT_TRUE(body["choices"][0]["logprobs"].is_null());
  EXPECT_EQ(body["usage"],
            json({{"prompt_tokens", 2}, {"completion_tokens", 3}, {"total_tokens", 5}}));
}

TEST(CompletionBody, EchoAndLogprobs) {
  const auto tokenizer = SmallTokenizer();
  CompletionContext context;
  context.prompt_tokens = 2;
  context.echo = std::make_shared<const EchoedPrompt>(EchoedPrompt{{0, 1}, ""});
  context.logprobs = true;
  Completion completion = SmallCompletion();
  completion.finish_reason = FinishReason::kLength;
  completion.prompt_logprobs = {{-1, {{1, -1}}}};
  completion.logprobs = {
      {-2, {{2, -2}, {0, -3}}}, {-std::numeric_limits<double>::infinity(), {}}, {-4, {{1, -4}}}};
  const json body = json::parse(CompletionBody(context, completion, *tokenizer));
  const json& choice = body["choices"][0];
  EXPECT_EQ(choice["text"], "abéb");
  EXPECT_EQ(choice["finish_reason"], "length");
  const json& logprobs = choice["logprobs"];
  EXPECT_EQ(logprobs["tokens"], json({"a", "b", "bytes:\\xc3", "bytes:\\xa9", "b"}));
  EXPECT_EQ(logprobs["token_logprobs"], json({nullptr, -1.0, -2.0, nullptr, -4.0}));
  EXPECT_EQ(logprobs["text_offset"], json({0, 1, 2, 2, 3}));
  EXPECT_TRUE(logprobs["top_logprobs"][0].is_null());
  EXPECT_EQ(logprobs["top_logprobs"][2], json({{"bytes:\\xc3", -2.0}, {"a", -3.0}}));
}

TEST(CompletionBody, OfAChat) {
  const auto tokenizer = SmallTokenizer();
  CompletionContext context;
  context.is_chat = true;
  context.prompt_tokens = 2;
  json body = json::parse(CompletionBody(context, SmallCompletion(), *tokenizer));
  EXPECT_EQ(body["object"], "chat.completion");
  EXPECT_THAT(body["id"].get<std::string>(), HasSubstr("chatcmpl-"));
  const json message = {{"role", "assistant"}, {"content", "éb"}, {"refusal", nullptr}};
  EXPECT_EQ(body["choices"][0]["message"], message);
  EXPECT_EQ(body["choices"][0]["finish_reason"], "stop");
  EXPECT_TRUE(body["choices"][0]["logprobs"].is_null());
  EXPECT_FALSE(body["choices"][0].contains("text"));

  context.logprobs = true;
  Completion completion = SmallCompletion();
  completion.logprobs = {{-2, {{2, -2}, {0, -3}}}, {-1, {}}, {-4, {}}};
  body = json::parse(CompletionBody(context, completion, *tokenizer));
  const json& content = body["choices"][0]["logprobs"]["content"];
  ASSERT_EQ(content.size(), 3u);
  EXPECT_EQ(content[0]["token"], "bytes:\\xc3");
  EXPECT_EQ(content[0]["bytes"], json({0xc3}));
  EXPECT_EQ(content[0]["logprob"], -2.0);
  EXPECT_EQ(content[0]["top_logprobs"][1],
            json({{"token", "a"}, {"logprob", -3.0}, {"bytes", {97}}}));
  EXPECT_EQ(content[1]["top_logprobs"], json::array());
}

TEST(OutputLines, HaveTheApisKeys) {
  const json answer = json::parse(AnswerLine("a\"b", R"({"x":1})"));
  EXPECT_EQ(answer["custom_id"], "a\"b");
  EXPECT_EQ(answer["response"]["status_code"], 200);
  EXPECT_EQ(answer["response"]["body"], json({{"x", 1}}));
  EXPECT_TRUE(answer["response"]["request_id"].is_string());
  EXPECT_TRUE(answer["error"].is_null());

  const json error = json::parse(ErrorLine("", {"bad \xff", "top_k"}));
  EXPECT_TRUE(error["custom_id"].is_null());
  EXPECT_EQ(error["response"]["status_code"], 400);
  EXPECT_EQ(error["response"]["body"]["error"]["param"], "top_k");
  EXPECT_EQ(error["response"]["body"]["error"]["type"], "invalid_request_error");
  EXPECT_EQ(error["error"]["code"], "invalid_request");
  EXPECT_EQ(error["error"]["message"], "bad \xef\xbf\xbd");
  EXPECT_NE(answer["id"], error["id"]);
}

}  // namespace
}  // namespace longspan
