#ifndef LONGSPAN_LAUNCHER_RANK_PLACEMENT_H_
#define LONGSPAN_LAUNCHER_RANK_PLACEMENT_H_

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

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

// The machine that mpirun runs on.
struct LocalMachine {
  std::string name;
  int64_t slots = 1;  // where nothing states them
};

// Asks a command that starts ranks, without its -n. It starts nothing and reaches no host. Unset:
// it does not say, as any but Open MPI 4's mpirun.
std::optional<RankPlacement> AskPlacement(const std::vector<std::string>& launch, int64_t ranks);

// Of mpirun's answer.
std::optional<RankPlacement> ParsePlacement(absl::string_view answer, int64_t ranks,
                                            const LocalMachine& machine);

}  // namespace longspan

#endif  // LONGSPAN_LAUNCHER_RANK_PLACEMENT_H_
