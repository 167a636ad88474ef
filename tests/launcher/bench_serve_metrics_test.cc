#include "launcher/bench_serve_metrics.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"

namespace longspan {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

std::string Event(absl::string_view json) { return absl::StrCat("data: ", json, "\n\n"); }

TEST(AnswerStream, TakesTheTimesOfContent) {
  AnswerStream answer;
  EXPECT_TRUE(answer.Feed(Event(R"({"choices":[{"text":"a"}]})"), 1));
  const std::string second = Event(R"({"choices":[{"index":0,"text":"b","finish_reason":null}]})");
  EXPECT_TRUE(answer.Feed(second.substr(0, 20), 2));
  EXPECT_TRUE(answer.Feed(second.substr(20), 3)) << "the time is that of its last byte";
  EXPECT_TRUE(answer.Feed(Event(R"({"choices":[{"text":"","finish_reason":"stop"}]})"), 4));
  EXPECT_TRUE(answer.Feed(Event(R"({"choices":[],"usage":null})"), 4));
  EXPECT_FALSE(answer.has_usage());
  EXPECT_TRUE(
      answer.Feed(Event(R"({"choices":[],"usage":{"prompt_tokens":7,"completion_tokens":3}})"), 5));
  EXPECT_FALSE(answer.is_done());
  EXPECT_FALSE(answer.Feed(Event("[DONE]") + Event(R"({"choices":[{"text":"c"}]})"), 6));
  EXPECT_TRUE(answer.is_done());
  EXPECT_THAT(answer.content_times(), ElementsAre(1, 3));
  EXPECT_TRUE(answer.has_usage());
  EXPECT_EQ(answer.prompt_tokens(), 7);
  EXPECT_EQ(answer.completion_tokens(), 3);
  EXPECT_EQ(answer.error(), "");
}

TEST(AnswerStream, KnowsWhatIsContentOfAChat) {
  AnswerStream answer;
  answer.Feed(Event(R"({"choices":[{"delta":{"role":"assistant","content":""}}]})"), 1);
  answer.Feed(Event(R"({"choices":[{"delta":{"reasoning_content":"hm"}}]})"), 2);
  answer.Feed(Event(R"({"choices":[{"delta":{"content":"yes"}}]})"), 3);
  answer.Feed(Event(R"({"choices":[{"delta":{"content":null,"tool_calls":[{"index":0}]}}]})"), 4);
  answer.Feed(Event(R"({"choices":[{"delta":{},"finish_reason":"stop"}]})"), 5);
  answer.Feed(Event(R"({"choices":[{}]})") + Event(R"({"choices":null})") + Event("[]") + Event(""),
              6);
  EXPECT_THAT(answer.content_times(), ElementsAre(2, 3, 4));
  EXPECT_EQ(answer.error(), "");
}

TEST(AnswerStream, ErrorsEndIt) {
  const auto error = [](const std::string& bytes) {
    AnswerStream answer;
    EXPECT_FALSE(answer.Feed(bytes, 1));
    EXPECT_FALSE(answer.is_done());
    return answer.error();
  };
  EXPECT_EQ(error(Event(R"({"error":{"message":"no\nmemory"}})")), "no memory");
  EXPECT_EQ(error(Event(R"({"error":"gone"})")), "gone");
  EXPECT_EQ(error(Event(R"({"object":"error","message":"old style"})")), "old style");
  EXPECT_EQ(error("event: error\n" + Event(R"({"detail":"x"})")), "x");
  EXPECT_EQ(error(Event(R"({"error":{"code":5}})")), R"({"code":5})");
  EXPECT_EQ(error(Event("oops")), "not JSON: oops");
  EXPECT_EQ(error(Event(R"({"error":""})")), "without a message");
}

TEST(ServerMessage, IsOneLine) {
  EXPECT_EQ(ServerMessage(R"({"error":{"message":"slow down","type":"x"}})"), "slow down");
  EXPECT_EQ(ServerMessage(R"({"detail":[{"msg":"bad"}]})"), R"([{"msg":"bad"}])");
  EXPECT_EQ(ServerMessage(" <h1>Bad\r\n Gateway</h1>\n"), "<h1>Bad Gateway</h1>");
  EXPECT_EQ(ServerMessage(""), "");
  EXPECT_EQ(ServerMessage(std::string(1000, 'x')), std::string(300, 'x') + "...");
  EXPECT_EQ(ServerMessage(std::string(299, 'x') + "\xc3\xa4"), std::string(299, 'x') + "...");
}

TEST(Percentile, IsBetweenTheNearest) {
  EXPECT_DOUBLE_EQ(Percentile({5}, 99), 5);
  EXPECT_DOUBLE_EQ(Percentile({1, 2}, 50), 1.5);
  EXPECT_DOUBLE_EQ(Percentile({0, 10, 20, 30, 40}, 90), 36);
  EXPECT_DOUBLE_EQ(Percentile({0, 10, 20, 30, 40}, 0), 0);
  EXPECT_DOUBLE_EQ(Percentile({0, 10, 20, 30, 40}, 100), 40);
  const Distribution hundred = [] {
    std::vector<double> samples;
    for (int i = 100; i >= 0; --i) samples.push_back(i);
    return Distribute(samples);
  }();
  EXPECT_DOUBLE_EQ(hundred.mean, 50);
  EXPECT_DOUBLE_EQ(hundred.median, 50);
  EXPECT_DOUBLE_EQ(hundred.p90, 90);
  EXPECT_DOUBLE_EQ(hundred.p95, 95);
  EXPECT_DOUBLE_EQ(hundred.p99, 99);
  EXPECT_DOUBLE_EQ(hundred.max, 100);
  EXPECT_TRUE(std::isnan(Distribute({}).mean));
  EXPECT_TRUE(std::isnan(Distribute({}).max));
}

ServeRecord Answered(double start, std::vector<double> content, double end, int64_t tokens) {
  ServeRecord record;
  record.is_finished = record.is_answered = record.has_usage = true;
  record.start_s = start;
  record.content_s = std::move(content);
  record.end_s = end;
  record.input_tokens = 100;
  record.output_tokens = tokens;
  return record;
}

TEST(SummarizeServe, TakesSamplesOfWhatSucceeded) {
  std::vector<ServeRecord> records = {Answered(0, {1, 1.5, 2.5}, 3, 4),  // two tokens in one event
                                      Answered(1, {3}, 3.25, 1),
                                      Answered(2, {}, 5, 0),
                                      Answered(2, {3, 4}, 5, 2),
                                      Answered(2, {}, 3, 0),
                                      Answered(2, {}, 3, 0),
                                      ServeRecord()};
  records[3].failure = "timeout";
  records[4].failure = records[5].failure = "HTTP 429";
  records[4].message = "first";
  records[5].message = "second";
  records[3].is_answered = false;
  records[2].has_usage = false;
  const ServeSummary summary = SummarizeServe(records, 5);
  EXPECT_EQ(summary.completed, 3);
  EXPECT_EQ(summary.failed, 3);
  EXPECT_EQ(summary.answered, 5);
  EXPECT_EQ(summary.unfinished, 1);
  EXPECT_EQ(summary.without_usage, 1);
  EXPECT_EQ(summary.total_input_tokens, 300);
  EXPECT_EQ(summary.total_output_tokens, 5);
  EXPECT_DOUBLE_EQ(summary.ttft_ms.mean, 1500);  // of 1 and 2 s: one has no content
  EXPECT_DOUBLE_EQ(summary.ttft_ms.max, 2000);
  EXPECT_DOUBLE_EQ(summary.tpot_ms.mean, 500);  // of one request: 1.5 s for three tokens
  EXPECT_DOUBLE_EQ(summary.itl_ms.mean, 750);
  EXPECT_DOUBLE_EQ(summary.itl_ms.max, 1000);
  EXPECT_DOUBLE_EQ(summary.e2el_ms.mean, (3000 + 2250 + 3000) / 3.0);
  ASSERT_EQ(summary.failures.size(), 2u);
  EXPECT_EQ(summary.failures[0].reason, "HTTP 429");
  EXPECT_EQ(summary.failures[0].count, 2);
  EXPECT_EQ(summary.failures[0].message, "first");
  EXPECT_EQ(summary.failures[1].reason, "timeout");

  EXPECT_THAT(SummarizeServe({}, 0).failures, IsEmpty());
  EXPECT_TRUE(std::isnan(SummarizeServe({}, 0).ttft_ms.p99));
}

}  // namespace
}  // namespace longspan
