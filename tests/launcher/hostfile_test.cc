#include "launcher/hostfile.h"

#include <fstream>
#include <map>
#include <string>

#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace longspan {
namespace {

using ::testing::HasSubstr;

std::string ErrorOf(const std::string& text) {
  const char* test = ::testing::UnitTest::GetInstance()->current_test_info()->name();
  const std::string path = absl::StrCat(::testing::TempDir(), "/hostfile_", test);
  std::ofstream(path) << text;
  return std::string(CheckHostfile(path).message());
}

TEST(HostfileTest, TakesWhatMpirunTakes) {
  for (const char* text :
       {"a", "a slots=2", "a slots = 2 max_slots= 4", "a cpu=2 slots-max =3", "u@a.b-c_d count=1",
        "a slots=0\nb slots=2\n", "a username=joe slots=2 # comment\n\n", "10.0.0.1 // comment",
        "fe80::1 slots=02", "/* two\n * of them */\na slots=2 /* one */\nb // /* none\n",
        "a # /*\nb /* the rest"}) {
    EXPECT_EQ(ErrorOf(text), "") << text;
  }
}

TEST(HostfileTest, NamesTheLineAtFault) {
  const std::map<std::string, std::string> errors = {
      {"a\nb slots=many", ":2: `slots=many` is neither slots=N nor max_slots=N"},
      {"a slots = many", ":1: `slots=many` is neither"},
      {"a slots=-1", ":1: `slots=-1` is neither"},
      {"a slots=+2", ":1: `slots=+2` is neither"},
      {"/* one\ntwo */ a\nb slots=many", ":3: `slots=many` is neither"},
      {"/* a", ": names no host"},
      {"a slots", ":1: `slots` is neither"},
      {"a slots=", ":1: `slots=` is neither"},
      {"a slots==2", ":1: `slots==` is neither"},
      {"a SLOTS=2", ":1: `SLOTS=2` is neither"},
      {"a b", ":1: `b` is neither"},
      {"a, b", ":1: `a,` is no name of a host"},
      {"= 2", ":1: `=` is no name of a host"},
      {"a slots=2\r\n", ":1: it ends in a carriage return"},
      {"# none\n\n", ": names no host"},
      {"", ": names no host"}};
  for (const auto& [text, error] : errors) {
    EXPECT_THAT(ErrorOf(text), HasSubstr(error)) << text;
  }
  EXPECT_FALSE(CheckHostfile("/no/such/hosts").ok());
}

}  // namespace
}  // namespace longspan
