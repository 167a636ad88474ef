#include "launcher/scale_flags.h"

#include <algorithm>

#include "absl/flags/flag.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "launcher/flags.h"

ABSL_FLAG(int64_t, decode, 32, "Decoded tokens that are timed behind each prompt");
ABSL_FLAG(std::string, ranks, "", "Numbers of ranks, separated by commas");

namespace longspan {
namespace {

constexpr absl::string_view kMethods[] = {"esa", "dense", "streaming"};

}  // namespace

absl::StatusOr<int64_t> ScaleSteps() {
  return ParseNumber("decode", absl::StrCat(absl::GetFlag(FLAGS_decode)), kMostScaleRuns);
}

absl::StatusOr<int64_t> ScaleRuns() {
  return ParseNumber("repeat", absl::StrCat(absl::GetFlag(FLAGS_repeat).value_or(1)),
                     kMostScaleRuns);
}

absl::StatusOr<std::string> ScaleFile() {
  std::string file = absl::GetFlag(FLAGS_file);
  if (file != "-") return file;
  return absl::InvalidArgumentError(
      "--file must name a file: each point reads it anew, which standard input does not allow");
}

absl::StatusOr<std::vector<std::string>> ParseMethods(absl::string_view text) {
  std::vector<std::string> methods;
  for (const absl::string_view name : absl::StrSplit(text, ',')) {
    if (std::find(std::begin(kMethods), std::end(kMethods), name) == std::end(kMethods)) {
      return absl::InvalidArgumentError(absl::StrCat(
          "--method: there is no method `", name, "`; there are ", absl::StrJoin(kMethods, ", ")));
    }
    if (std::find(methods.begin(), methods.end(), name) != methods.end()) {
      return absl::InvalidArgumentError(absl::StrCat("--method names ", name, " twice"));
    }
    methods.emplace_back(name);
  }
  return methods;
}

}  // namespace longspan
