#include "launcher/http_client.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>

namespace longspan {
namespace {

using ::testing::HasSubstr;

std::string Parsed(absl::string_view url) {
  const absl::StatusOr<HttpUrl> parsed = ParseHttpUrl(url);
  return parsed.ok() ? parsed->ToString() : std::string(parsed.status().message());
}

TEST(ParseHttpUrl, TakesHostPortAndPath) {
  EXPECT_EQ(Parsed("http://127.0.0.1:8000"), "http://127.0.0.1:8000");
  EXPECT_EQ(Parsed("http://node-1.example"), "http://node-1.example:80");
  EXPECT_EQ(Parsed("HTTP://a:1/"), "http://a:1");
  EXPECT_EQ(Parsed("http://a:1/b/v1//"), "http://a:1/b/v1");
  EXPECT_EQ(Parsed("http://a/b:c"), "http://a:80/b:c");
  EXPECT_EQ(Parsed("http://[::1]:8000/x"), "http://[::1]:8000/x");
  EXPECT_EQ(Parsed("http://[fe80::1]"), "http://[fe80::1]:80");
  EXPECT_EQ(ParseHttpUrl("http://[::1]:8000")->host, "::1");
}

TEST(ParseHttpUrl, SaysWhatIsWrong) {
  EXPECT_THAT(Parsed("https://a"), HasSubstr("https is not spoken here"));
  for (const char* url : {"", "a:8000", "ftp://a", "http:/a", "//a"}) {
    EXPECT_THAT(Parsed(url), HasSubstr("not an http:// URL")) << url;
  }
  for (const char* url : {"http://", "http://:80", "http:///x", "http://[]:1"}) {
    EXPECT_THAT(Parsed(url), HasSubstr("has no host")) << url;
  }
  for (const char* url : {"http://a:", "http://a:0", "http://a:65536", "http://a:8x", "http://a:-1",
                          "http://a:+1", "http://[::1]:", "http://a:99999999999999999999"}) {
    EXPECT_THAT(Parsed(url), HasSubstr("its port is not a number")) << url;
  }
  for (const char* url : {"http://u@a", "http://a?x=1", "http://a/#b"}) {
    EXPECT_THAT(Parsed(url), HasSubstr("has no use here")) << url;
  }
  for (const char* url : {"http://a b", "http://a\r\nx: y", "http://\xc3\xa4"}) {
    EXPECT_THAT(Parsed(url), HasSubstr("must be escaped")) << url;
  }
  EXPECT_THAT(Parsed("http://::1:80"), HasSubstr("in brackets"));
  EXPECT_THAT(Parsed("http://[::1"), HasSubstr("lacks a `]`"));
  EXPECT_THAT(Parsed("http://[::1]80"), HasSubstr("no port follows"));
}

}  // namespace
}  // namespace longspan
