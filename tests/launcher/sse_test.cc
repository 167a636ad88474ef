#include "launcher/sse.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "absl/strings/string_view.h"

namespace longspan {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

// "type|data" of each event, of bytes that come in pieces.
std::vector<std::string> Parse(absl::string_view text, size_t piece) {
  SseParser parser;
  std::vector<std::string> events;
  for (size_t i = 0; i < text.size(); i += piece) {
    parser.Feed(text.substr(i, piece), [&](const SseEvent& event) {
      events.push_back(absl::StrCat(event.type, "|", event.data));
    });
  }
  return events;
}

TEST(SseParser, SplitAtAnyByteWithAnyEndOfLine) {
  const std::string text =
      "\xef\xbb\xbf: a comment\n\ndata: {\"a\": 1}\n\ndata:no space\nid: 7\n\n"
      "event: error\nretry: 5\ndata: one\ndata:  two\ndata\n\n"
      "event: alone\n\ndata:\n\n:\nunknown: x\ndata: last\n\ndata: never ended\n";
  for (const absl::string_view end : {"\n", "\r\n", "\r"}) {
    const std::string bytes = absl::StrReplaceAll(text, {{"\n", end}});
    for (size_t piece = 1; piece <= bytes.size(); ++piece) {
      ASSERT_THAT(Parse(bytes, piece),
                  ElementsAre("|{\"a\": 1}", "|no space", "error|one\n two\n", "|", "|last"))
          << "pieces of " << piece << " bytes, lines of " << end.size();
    }
  }
}

TEST(SseParser, AnEventComesWithItsLastByte) {
  SseParser parser;
  int events = 0;
  const auto count = [&](const SseEvent&) { ++events; };
  parser.Feed("data: x\r\n\r", count);
  EXPECT_EQ(events, 1) << "the \\n that may follow belongs to it";
  parser.Feed("\ndata: y\r\n", count);
  EXPECT_EQ(events, 1);
  parser.Feed("\r\n", count);
  EXPECT_EQ(events, 2);
}

TEST(SseParser, EventsOfAnySize) {
  const std::string data(3'000'000, 'x');
  EXPECT_THAT(Parse(absl::StrCat("data: ", data, "\n\n"), 8192), ElementsAre("|" + data));
  EXPECT_THAT(Parse("", 1), IsEmpty());
  EXPECT_THAT(Parse("\n\n\n", 1), IsEmpty());
}

}  // namespace
}  // namespace longspan
