#include "launcher/rank_placement.h"

#include <unistd.h>

#include <algorithm>
#include <fstream>
#include <map>
#include <set>
#include <thread>
#include <utility>

#include "absl/status/statusor.h"
#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "launcher/bootstrap.h"
#include "launcher/child_process.h"
#include "runtime/clock.h"

namespace longspan {
namespace {

constexpr double kPatienceSeconds = 5;  // an answer takes a twentieth of a second
constexpr uint32_t kSlotsGiven = 0x10;  // ORTE_NODE_FLAG_SLOTS_GIVEN

struct AllocatedHost {
  std::string name;
  std::optional<int64_t> slots;  // unset: mpirun counts cores when it is there
};

// mpirun's name of a host has no domain.
std::string WithoutDomain(absl::string_view host) {
  return std::string(host.substr(0, host.find('.')));
}

std::optional<int64_t> NumberBehind(absl::string_view text, absl::string_view key) {
  const size_t at = text.find(key);
  if (at == text.npos) return std::nullopt;
  text.remove_prefix(at + key.size());
  int64_t number = 0;
  if (!absl::SimpleAtoi(text.substr(0, text.find_first_of(" \t")), &number)) return std::nullopt;
  return number;
}

// "node1: flags=0x11 slots=2 max_slots=0 slots_inuse=0 state=UP", a line of the allocation.
std::optional<AllocatedHost> ParseHost(absl::string_view line) {
  const std::pair<absl::string_view, absl::string_view> parts =
      absl::StrSplit(line, absl::MaxSplits(": flags=0x", 1));
  uint32_t flags = 0;
  const std::optional<int64_t> slots = NumberBehind(parts.second, " slots=");
  if (!slots || !absl::SimpleHexAtoi(parts.second.substr(0, parts.second.find(' ')), &flags)) {
    return std::nullopt;
  }
  AllocatedHost host = {std::string(parts.first), std::nullopt};
  if ((flags & kSlotsGiven) != 0) host.slots = slots;
  return host;
}

// Cores, not their threads.
int64_t CountCores() {
  std::set<std::pair<std::string, std::string>> cores;
  std::string package;
  std::ifstream file("/proc/cpuinfo");
  for (std::string line; std::getline(file, line);) {
    const std::pair<std::string, std::string> field = absl::StrSplit(line, absl::MaxSplits(':', 1));
    if (field.first.starts_with("physical id")) package = field.second;
    if (field.first.starts_with("core id")) cores.emplace(package, field.second);
  }
  return static_cast<int64_t>(cores.size());
}

LocalMachine ThisMachine(const std::vector<std::string>& launch) {
  const bool by_thread = std::any_of(launch.begin(), launch.end(), [](const std::string& word) {
    return absl::StrContains(word, "hwthread");
  });
  const int64_t threads = std::thread::hardware_concurrency();
  const int64_t cores = CountCores();
  char name[256] = "";
  gethostname(name, sizeof(name) - 1);
  return {WithoutDomain(name), by_thread || cores == 0 ? threads : cores};
}

}  // namespace

std::optional<RankPlacement> ParsePlacement(absl::string_view answer, int64_t ranks,
                                            const LocalMachine& machine) {
  std::vector<AllocatedHost> hosts;
  std::map<std::string, int64_t> placed;
  for (absl::string_view line : absl::StrSplit(answer, '\n')) {
    line = absl::StripAsciiWhitespace(line);
    if (absl::ConsumePrefix(&line, "Data for node: ")) {
      const std::string host = WithoutDomain(line.substr(0, line.find('\t')));
      placed[host] += NumberBehind(line, "Num procs: ").value_or(0);
    } else if (auto host = ParseHost(line)) {
      hosts.push_back(*std::move(host));
    }
  }
  if (hosts.empty()) return std::nullopt;
  RankPlacement placement;
  placement.slots = 0;
  bool is_stated = true;
  for (const AllocatedHost& host : hosts) {
    placement.hosts.push_back(host.name);
    is_stated = is_stated && host.slots.has_value();
    std::optional<int64_t> slots = host.slots;
    if (!slots && WithoutDomain(host.name) == machine.name) slots = machine.slots;
    placement.slots =
        placement.slots && slots ? std::optional(*placement.slots + *slots) : std::nullopt;
  }
  // Without a look at hosts that state no slots mpirun takes them to have one each, so neither its
  // refusal nor its map is to be relied on.
  placement.is_refused = placed.empty() && placement.slots && ranks > *placement.slots;
  if (placement.is_refused) return placement;
  if (hosts.size() == 1) {
    placement.ranks_here = WithoutDomain(hosts[0].name) == machine.name ? ranks : 0;
  } else if (is_stated && !placed.empty()) {
    placement.ranks_here = placed[machine.name];
  }
  return placement;
}

std::optional<RankPlacement> AskPlacement(const std::vector<std::string>& launch, int64_t ranks) {
  std::vector<std::string> command = launch;
  // Verbose, it lists the hosts as it learns of them; later, all slots would look stated.
  for (const char* word : {"--mca", "ras_base_verbose", "5", "--do-not-launch", "--display-map"}) {
    command.push_back(word);
  }
  command.insert(command.end(), {"-n", absl::StrCat(ranks), "true"});
  const double began = MonotonicSeconds();
  const absl::StatusOr<ChildResult> answer = RunChild(command, [&] {
    return StopRequested() || MonotonicSeconds() - began > kPatienceSeconds ? ChildOrder::kKill
                                                                            : ChildOrder::kRun;
  });
  if (!answer.ok() || answer->stopped) return std::nullopt;
  return ParsePlacement(answer->output, ranks, ThisMachine(launch));
}

}  // namespace longspan
