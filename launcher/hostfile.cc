#include "launcher/hostfile.h"

#include <algorithm>
#include <cstdlib>
#include <fstream>
#include <set>
#include <thread>
#include <utility>

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
std::string ParseLine(const std::vector<absl::string_view>& words, Host* host) {
  if (!IsHostName(words[0])) {
    return absl::StrCat("`", words[0], "` is no name of a host");
  }
  host->name = std::string(words[0]);
  for (size_t w = 1; w < words.size(); ++w) {
    absl::string_view value = words[w];
    const bool is_slots = absl::ConsumePrefix(&value, "slots=");
    const bool is_most = !is_slots && (absl::ConsumePrefix(&value, "max_slots=") ||
                                       absl::ConsumePrefix(&value, "max-slots="));
    int64_t number = 0;
    if ((!is_slots && !is_most) || !absl::SimpleAtoi(value, &number) || number < 1) {
      return absl::StrCat("`", words[w], "` is neither slots=N nor max_slots=N with N from 1 on");
    }
    if (is_slots) host->slots = number;
  }
  return "";
}

}  // namespace

absl::StatusOr<std::vector<Host>> ReadHostfile(const std::string& path) {
  std::string text;
  LONGSPAN_RETURN_IF_ERROR(ReadBytes(path, 0, -1, &text));
  std::vector<Host> hosts;
  int64_t number = 0;
  for (absl::string_view line : absl::StrSplit(text, '\n')) {
    ++number;
    line = line.substr(0, line.find('#'));
    const std::vector<absl::string_view> words =
        absl::StrSplit(line, absl::ByAnyChar(" \t\r"), absl::SkipEmpty());
    if (words.empty()) continue;
    if (const std::string error = ParseLine(words, &hosts.emplace_back()); !error.empty()) {
      return absl::InvalidArgumentError(absl::StrCat(
          path, ":", number, ": ", error, "; a line is a host and its slots: node1 slots=16"));
    }
  }
  if (hosts.empty()) {
    return absl::InvalidArgumentError(absl::StrCat(path, ": names no host"));
  }
  return hosts;
}

std::optional<int64_t> TotalSlots(const std::vector<Host>& hosts) {
  int64_t total = 0;
  for (const Host& host : hosts) {
    if (!host.slots) return std::nullopt;
    total += *host.slots;
  }
  return total;
}

int64_t LocalSlots() {
  int64_t tasks = 0;
  if (const char* text = getenv("SLURM_NTASKS"); text && absl::SimpleAtoi(text, &tasks)) {
    return tasks;
  }
  std::set<std::pair<std::string, std::string>> cores;
  std::string package;
  std::ifstream file("/proc/cpuinfo");
  for (std::string line; std::getline(file, line);) {
    const std::pair<std::string, std::string> field = absl::StrSplit(line, absl::MaxSplits(':', 1));
    if (field.first.starts_with("physical id")) package = field.second;
    if (field.first.starts_with("core id")) cores.emplace(package, field.second);
  }
  const int64_t threads = std::thread::hardware_concurrency();
  return cores.empty() ? threads : static_cast<int64_t>(cores.size());
}

}  // namespace longspan
