#include "launcher/rank_placement.h"

#include <unistd.h>

#include <map>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "kernels/base/status_macros.h"
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

// All that a command writes to its output. Empty: it could not be run. DeadlineExceeded: it was
// stopped, as it takes too long or by a signal.
absl::StatusOr<std::string> AnswerOf(std::vector<std::string> command,
                                     const std::vector<std::string>& words) {
  command.insert(command.end(), words.begin(), words.end());
  const double began = MonotonicSeconds();
  const absl::StatusOr<ChildResult> answer = RunChild(command, [&] {
    const bool is_late = MonotonicSeconds() - began > kPatienceSeconds;
    return is_late && !StopRequested() ? ChildOrder::kStop : OrderOfSignals();
  });
  if (answer.ok() && answer->stopped) {
    return absl::DeadlineExceededError(absl::StrCat(command[0], " does not answer"));
  }
  return answer.ok() ? answer->output : "";
}

std::string NameOfThisMachine() {
  char name[256] = "";
  gethostname(name, sizeof(name) - 1);
  return WithoutDomain(name);
}

}  // namespace

std::optional<RankPlacement> ParsePlacement(
    absl::string_view answer, int64_t ranks, const std::string& here,
    absl::FunctionRef<std::optional<int64_t>()> count_slots) {
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
  for (const AllocatedHost& host : hosts) {
    placement.hosts.push_back(host.name);
    placement.slots = placement.slots && host.slots ? std::optional(*placement.slots + *host.slots)
                                                    : std::nullopt;
  }
  const bool is_alone = hosts.size() == 1 && WithoutDomain(hosts[0].name) == here;
  // Without a look at hosts that state no slots mpirun takes them to have one each, so neither its
  // refusal nor its map is to be relied on.
  const bool is_stated = placement.slots.has_value();
  if (!is_stated && is_alone && placed.empty()) placement.slots = count_slots();
  placement.is_refused = placed.empty() && placement.slots && ranks > *placement.slots;
  if (placement.is_refused) return placement;
  if (hosts.size() == 1) {
    placement.ranks_here = is_alone ? ranks : 0;
  } else if (is_stated && !placed.empty()) {
    placement.ranks_here = placed[here];
  }
  return placement;
}

std::optional<int64_t> ParseSlots(absl::string_view answer) {
  for (const absl::string_view line : absl::StrSplit(answer, '\n')) {
    if (const auto host = ParseHost(absl::StripAsciiWhitespace(line))) return host->slots;
  }
  return std::nullopt;
}

// mpiexec of Open MPI 4 calls itself after its runtime.
absl::StatusOr<bool> IsOpenMpi(const std::vector<std::string>& launch) {
  LONGSPAN_ASSIGN_OR_RETURN(const std::string answer, AnswerOf({launch[0]}, {"--version"}));
  return absl::StrContains(answer, "(Open MPI)") || absl::StrContains(answer, "(OpenRTE)");
}

absl::StatusOr<std::optional<RankPlacement>> AskPlacement(const std::vector<std::string>& launch,
                                                          int64_t ranks) {
  // Verbose, it lists the hosts as it learns of them; later, all slots would look stated.
  LONGSPAN_ASSIGN_OR_RETURN(const std::string answer,
                            AnswerOf(launch, {"--mca", "ras_base_verbose", "5", "--do-not-launch",
                                              "--display-map", "-n", absl::StrCat(ranks), "true"}));
  return ParsePlacement(answer, ranks, NameOfThisMachine(), [&] {
    return ParseSlots(AnswerOf(launch, {"--display-allocation", "-n", "1", "true"}).value_or(""));
  });
}

}  // namespace longspan
