#ifndef LONGSPAN_LAUNCHER_RANK_PLACEMENT_H_
#define LONGSPAN_LAUNCHER_RANK_PLACEMENT_H_

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

// Where mpirun would start ranks, by its own account: what its options, its files, the environment
// and a batch system come to, it alone knows.
namespace longspan {

struct RankPlacement {
  std::vector<std::string> hosts;     // that it may use
  std::optional<int64_t> slots;       // of all hosts; unset: it counts the cores of one elsewhere
  std::optional<int64_t> ranks_here;  // on this machine; unset: not known before it is run
  bool is_refused = false;            // more ranks than slots, and no leave to oversubscribe
};

// Whether a command that starts ranks begins with Open MPI's mpirun, or a script that passes
// --version on to it: others would not take its questions as such. DeadlineExceeded: no answer.
absl::StatusOr<bool> IsOpenMpi(const std::vector<std::string>& launch);

// Asks such a command, without its -n. It reaches no host, and starts no more than one `true`, on
// this machine. A signal that stops the process ends the question. Unset: it does not say.
// DeadlineExceeded: no answer in time.
absl::StatusOr<std::optional<RankPlacement>> AskPlacement(const std::vector<std::string>& launch,
                                                          int64_t ranks);

// Of mpirun's answer, on the machine `here`. `count_slots`: how many slots mpirun gives this
// machine where nothing states them; asked if it is alone.
std::optional<RankPlacement> ParsePlacement(
    absl::string_view answer, int64_t ranks, const std::string& here,
    absl::FunctionRef<std::optional<int64_t>()> count_slots);

// Of the answer to --display-allocation of the one host of a job that has started.
std::optional<int64_t> ParseSlots(absl::string_view answer);

}  // namespace longspan

#endif  // LONGSPAN_LAUNCHER_RANK_PLACEMENT_H_
