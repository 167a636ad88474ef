#include "collectives/watchdog.h"

#include <algorithm>
#include <cstring>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"

namespace longspan {
namespace {

// FNV-1a: ranks compare it, so it must be the same in every process, which absl::Hash is not.
uint64_t HashBytes(uint64_t hash, const void* data, size_t bytes) {
  const auto* p = static_cast<const unsigned char*>(data);
  for (size_t i = 0; i < bytes; ++i) hash = (hash ^ p[i]) * 0x100000001b3;
  return hash;
}

std::string DescribeStatus(const RankStatus& status) {
  switch (status.state) {
    case RankStatus::kNoAnswer:
      return absl::StrCat("no answer, last seen in ", status.call);
    case RankStatus::kInCall:
      return absl::StrFormat("in %s for %.1f s", status.call, status.seconds);
    case RankStatus::kComputing:
      return absl::StrFormat("computing for %.1f s since %s", status.seconds, status.call);
    case RankStatus::kFinished:
      return absl::StrFormat("returned %.1f s ago after %s", status.seconds, status.call);
  }
  return "unknown";
}

}  // namespace

void SetAgreement(CallRecord& call, absl::Span<const int64_t> sizes) {
  uint64_t hash = 0xcbf29ce484222325;
  hash = HashBytes(hash, call.operation.data(), call.operation.size());
  hash = HashBytes(hash, "", 1);  // keeps ("a", "bc") apart from ("ab", "c")
  hash = HashBytes(hash, call.name.data(), call.name.size());
  call.agreement = HashBytes(hash, sizes.data(), sizes.size() * sizeof(int64_t));
}

std::string DescribeCall(const CallRecord& call) {
  if (call.sequence == 0) return "no call yet";
  std::string text = absl::StrFormat("#%d %s '%s' (%d bytes", call.sequence, call.operation,
                                     call.name, call.bytes);
  if (call.peer >= 0) absl::StrAppend(&text, ", peer ", call.peer);
  return absl::StrCat(text, ")");
}

RankStatus MakeRankStatus(RankStatus::State state, const CallRecord& call, double seconds) {
  RankStatus status;
  status.state = state;
  status.sequence = call.sequence;
  status.seconds = seconds;
  const std::string text = DescribeCall(call);
  std::memcpy(status.call, text.data(), std::min(text.size(), sizeof(status.call) - 1));
  return status;
}

std::string TimeoutMessage(int rank, const CallRecord& call, double seconds,
                           absl::Span<const RankStatus> ranks) {
  std::string text = absl::StrFormat("rank %d waited %.1f s in %s. Every rank:", rank, seconds,
                                     DescribeCall(call));
  for (size_t r = 0; r < ranks.size(); ++r) {
    absl::StrAppend(&text, "\n  rank ", r, ": ", DescribeStatus(ranks[r]));
  }
  absl::StrAppend(&text,
                  "\nA rank without an answer died, hangs or still computes (then raise "
                  "`parallel.timeout_s`); ranks in different calls took different paths.");
  return text;
}

std::string MismatchMessage(absl::Span<const std::string> calls) {
  std::string text = "ranks disagree about what comes next:";
  for (size_t r = 0; r < calls.size(); ++r) {
    if (!calls[r].empty()) absl::StrAppend(&text, "\n  rank ", r, ": ", calls[r]);
  }
  return text;
}

absl::Status WrongSizeError(const CallRecord& call, int64_t sent, int64_t expected) {
  return absl::InternalError(absl::StrCat("rank ", call.peer, " sent ", sent, " bytes where ",
                                          expected, " were expected, in ", DescribeCall(call)));
}

void AddToStats(CommunicatorStats& stats, std::string_view name, int64_t calls, int64_t bytes_sent,
                double seconds) {
  auto it = stats.find(name);
  if (it == stats.end()) it = stats.emplace(std::string(name), CallStats{}).first;
  it->second.calls += calls;
  it->second.bytes_sent += bytes_sent;
  it->second.seconds_waited += seconds;
}

}  // namespace longspan
