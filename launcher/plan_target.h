#ifndef LONGSPAN_LAUNCHER_PLAN_TARGET_H_
#define LONGSPAN_LAUNCHER_PLAN_TARGET_H_

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/status/statusor.h"
#include "launcher/plan_choices.h"
#include "launcher/plan_prediction.h"

// The smallest machine on which a job is as fast as is wanted.
namespace longspan {

struct PlanTarget {
  std::optional<double> prompt_s;  // time to first token, at most
  std::optional<double> token_s;   // of a token of every sequence, at most

  bool asks() const { return prompt_s.has_value() || token_s.has_value(); }
};

// One number of ranks that was tried.
struct PlanTry {
  int ranks = 0;
  int64_t chunk_tokens = 0;
  bool fits = false;
  bool meets = false;  // the target, and fits
  double prompt_s = 0, token_s = 0;
  int64_t needed = 0, usable = 0;  // bytes of a rank
};

struct PlanSearch {
  std::vector<PlanTry> tries;    // in the order in which they were made
  std::optional<PlanTry> found;  // the smallest that fits and meets the target
  std::string limit;             // else what binds, and how near the tries come
};

inline constexpr int kMostSearchedRanks = 4096;

// Powers of two, and multiples of the ranks of a host, up to `most`, ascending.
std::vector<int> RanksToSearch(int64_t ranks_per_host, int most);

// The smallest of `ranks` (RanksToSearch) that fits and meets the target, as `attempt` says. Powers
// of two are tried one after the other; between the first one that does and the one before, it
// takes what comes closest by halving, as if more ranks never made it worse there.
absl::StatusOr<PlanSearch> SearchRanks(
    const PlanTarget& target, const std::vector<int>& ranks,
    absl::FunctionRef<absl::StatusOr<PlanTry>(int ranks)> attempt);

// The same for a job: on each number of ranks with its own chunk, or with one that gives every rank
// a block, if that is longer and the prompt is then faster. Numbers of ranks that the config is not
// for are left out; that it is for one rank is for the caller to see.
absl::StatusOr<PlanSearch> SearchMachine(const PlanSubject& subject, const PlanTarget& target,
                                         int64_t context, int64_t batch,
                                         const PlanProgress& progress);

}  // namespace longspan

#endif  // LONGSPAN_LAUNCHER_PLAN_TARGET_H_
