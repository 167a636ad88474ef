#include "runtime/phases.h"

#include <numeric>

#include "absl/strings/match.h"
#include "absl/types/span.h"
#include "kernels/base/status_macros.h"

namespace longspan {
namespace {

// The first that fits counts. docs/ARCHITECTURE.md lists the names of calls.
struct CallPrefix {
  absl::string_view prefix;
  Phase phase;
};
constexpr CallPrefix kCalls[] = {
    {"select.queries", Phase::kQueryGather},
    {"select.maxima", Phase::kMaxima},
    {"select.thresholds", Phase::kMaxima},
    {"select.sums", Phase::kMaxima},
    {"select.", Phase::kCandidateMerge},
    {"ring.partials", Phase::kPartialMerge},
    {"ring.", Phase::kRingWait},
    {"decode.", Phase::kPartialMerge},
    {"attend.", Phase::kPartialMerge},
};

// A rank's phases as numbers, for ranks that know the names of the calls.
void AppendNumbers(const StagePhases& stage, std::vector<double>* numbers) {
  numbers->push_back(static_cast<double>(stage.steps));
  numbers->push_back(stage.wall_s);
  numbers->insert(numbers->end(), stage.seconds.begin(), stage.seconds.end());
  for (const auto& [name, call] : stage.calls) {
    numbers->insert(numbers->end(), {static_cast<double>(call.calls),
                                     static_cast<double>(call.bytes_sent), call.seconds_waited});
  }
}

// The inverse, with the names that `stage` has. Returns what follows.
const double* TakeNumbers(const double* number, StagePhases* stage) {
  stage->steps = static_cast<int64_t>(*number++);
  stage->wall_s = *number++;
  for (double& seconds : stage->seconds) seconds = *number++;
  for (auto& [name, call] : stage->calls) {
    call.calls = static_cast<int64_t>(*number++);
    call.bytes_sent = static_cast<int64_t>(*number++);
    call.seconds_waited = *number++;
  }
  return number;
}

double Sum(const PhaseSeconds& seconds, int begin, int end) {
  return std::accumulate(seconds.begin() + begin, seconds.begin() + end, 0.0);
}

}  // namespace

Phase PhaseOfCall(absl::string_view name) {
  for (const CallPrefix& call : kCalls) {
    if (absl::StartsWith(name, call.prefix)) return call.phase;
  }
  return Phase::kOtherExchange;
}

double ComputeSeconds(const StagePhases& stage) { return Sum(stage.seconds, 0, kNumComputePhases); }

double ExchangeSeconds(const StagePhases& stage) {
  return Sum(stage.seconds, kNumComputePhases, kNumPhases);
}

absl::Status GatherPhases(Communicator* communicator, const RankPhases& mine,
                          std::vector<RankPhases>* all) {
  std::vector<double> numbers;
  AppendNumbers(mine.prefill, &numbers);
  AppendNumbers(mine.decode, &numbers);
  std::vector<double> gathered(numbers.size() * communicator->size());
  LONGSPAN_RETURN_IF_ERROR(
      communicator->AllGather("stats.phases", numbers.data(), gathered.data(),
                              static_cast<int64_t>(numbers.size() * sizeof(double))));
  all->assign(communicator->size(), mine);
  const double* next = gathered.data();
  for (RankPhases& rank : *all) next = TakeNumbers(TakeNumbers(next, &rank.prefill), &rank.decode);
  return absl::OkStatus();
}

}  // namespace longspan
