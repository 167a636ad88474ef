#include "launcher/hostfile.h"

#include <algorithm>
#include <cstdint>
#include <vector>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "kernels/base/status_macros.h"
#include "runtime/read_bytes.h"

namespace longspan {
namespace {

bool IsHostName(absl::string_view name) {
  return std::all_of(name.begin(), name.end(), [](char c) {
    return absl::ascii_isalnum(c) || absl::StrContains("-._:@", absl::string_view(&c, 1));
  });
}

// What is wrong with a line; empty: nothing.
std::string CheckLine(const std::vector<absl::string_view>& words) {
  if (!IsHostName(words[0])) {
    return absl::StrCat("`", words[0], "` is no name of a host");
  }
  for (size_t w = 1; w < words.size(); ++w) {
    absl::string_view value = words[w];
    const bool is_key = absl::ConsumePrefix(&value, "slots=") ||
                        absl::ConsumePrefix(&value, "max_slots=") ||
                        absl::ConsumePrefix(&value, "max-slots=");
    int64_t number = 0;
    if (!is_key || !absl::SimpleAtoi(value, &number) || number < 1) {
      return absl::StrCat("`", words[w], "` is neither slots=N nor max_slots=N with N from 1 on");
    }
  }
  return "";
}

}  // namespace

absl::Status CheckHostfile(const std::string& path) {
  std::string text;
  LONGSPAN_RETURN_IF_ERROR(ReadBytes(path, 0, -1, &text));
  bool names_hosts = false;
  int64_t number = 0;
  for (absl::string_view line : absl::StrSplit(text, '\n')) {
    ++number;
    line = line.substr(0, line.find('#'));
    const std::vector<absl::string_view> words =
        absl::StrSplit(line, absl::ByAnyChar(" \t\r"), absl::SkipEmpty());
    if (words.empty()) continue;
    names_hosts = true;
    if (const std::string error = CheckLine(words); !error.empty()) {
      return absl::InvalidArgumentError(absl::StrCat(
          path, ":", number, ": ", error, "; a line is a host and its slots: node1 slots=16"));
    }
  }
  if (names_hosts) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat(path, ": names no host"));
}

}  // namespace longspan
