#include "launcher/hostfile.h"

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <iterator>
#include <vector>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_replace.h"
#include "absl/strings/str_split.h"
#include "kernels/base/status_macros.h"
#include "runtime/read_bytes.h"

namespace longspan {
namespace {

bool IsHostName(absl::string_view name) {
  return std::all_of(name.begin(), name.end(), [](char c) {
    return absl::ascii_isalnum(c) || absl::StrContains("-._:@", absl::string_view(&c, 1));
  });
}

// Of Open MPI 4. The value of a user's name is anything.
constexpr absl::string_view kCounts[] = {"slots",     "cpu",       "count",    "max_slots",
                                         "max-slots", "slots_max", "cpu_max",  "count_max",
                                         "slots-max", "cpu-max",   "count-max"};
constexpr absl::string_view kUsers[] = {"username", "user_name", "user-name"};

template <size_t n>
bool IsOneOf(absl::string_view word, const absl::string_view (&words)[n]) {
  return std::find(std::begin(words), std::end(words), word) != std::end(words);
}

// A host's name and, apart, the parts of `key=value`, which may have spaces between them.
std::vector<std::string> WordsOf(absl::string_view line) {
  return absl::StrSplit(absl::StrReplaceAll(line, {{"=", " = "}}), absl::ByAnyChar(" \t"),
                        absl::SkipEmpty());
}

// Line breaks stay where they were. A comment that is not closed goes on to the end.
std::string WithoutComments(absl::string_view text) {
  std::string rest;
  while (!text.empty()) {
    const bool to_end_of_line = text[0] == '#' || absl::StartsWith(text, "//");
    size_t skipped = 0;
    if (to_end_of_line) skipped = std::min(text.find('\n'), text.size());
    if (absl::StartsWith(text, "/*")) {
      const size_t end = text.find("*/", 2);
      skipped = end == text.npos ? text.size() : end + 2;
    }
    const absl::string_view comment = text.substr(0, skipped);
    rest.append(std::count(comment.begin(), comment.end(), '\n'), '\n');
    text.remove_prefix(skipped);
    if (skipped > 0) continue;
    rest += text[0];
    text.remove_prefix(1);
  }
  return rest;
}

// What is wrong with a line; empty: nothing.
std::string CheckLine(absl::string_view line) {
  if (absl::EndsWith(line, "\r")) return "it ends in a carriage return, as lines of Windows do";
  const std::vector<std::string> words = WordsOf(line);
  if (!IsHostName(words[0])) return absl::StrCat("`", words[0], "` is no name of a host");
  for (size_t w = 1; w < words.size(); w += 3) {
    const bool has_value = w + 2 < words.size() && words[w + 1] == "=";
    int64_t number = 0;
    const bool counts = has_value && IsOneOf(words[w], kCounts) &&
                        absl::ascii_isdigit(words[w + 2][0]) &&
                        absl::SimpleAtoi(words[w + 2], &number);
    if (counts || (has_value && IsOneOf(words[w], kUsers))) continue;
    const size_t end = std::min(w + 3, words.size());
    return absl::StrCat("`", absl::StrJoin(words.begin() + w, words.begin() + end, ""),
                        "` is neither slots=N nor max_slots=N with N from 0 on");
  }
  return "";
}

}  // namespace

absl::Status CheckHostfile(const std::string& path) {
  std::string text;
  LONGSPAN_RETURN_IF_ERROR(ReadBytes(path, 0, -1, &text));
  bool names_hosts = false;
  int64_t number = 0;
  const std::string rest = WithoutComments(text);
  for (const absl::string_view line : absl::StrSplit(rest, '\n')) {
    ++number;
    if (absl::StripAsciiWhitespace(line).empty()) continue;
    names_hosts = true;
    if (const std::string error = CheckLine(line); !error.empty()) {
      return absl::InvalidArgumentError(absl::StrCat(
          path, ":", number, ": ", error, "; a line is a host and its slots: node1 slots=16"));
    }
  }
  if (names_hosts) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat(path, ": names no host"));
}

}  // namespace longspan
