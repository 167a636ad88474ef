#ifndef LONGSPAN_COLLECTIVES_HEARTBEAT_H_
#define LONGSPAN_COLLECTIVES_HEARTBEAT_H_

#include <functional>
#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "collectives/communicator.h"

namespace longspan {

struct HeartbeatOptions {
  absl::Duration interval = absl::Seconds(1);
  absl::Duration limit = absl::Seconds(6);  // without a beat
  // Called, if there is one, by that thread when ranks were silent for `silence`, with which.
  std::function<void(const std::string& silent)> on_silent;
  absl::Duration silence = absl::Seconds(2);
};

struct LostRank {
  std::string text;   // who it was, and how it was lost
  bool is_reachable;  // its host said so; otherwise nothing came
};

// Notices that a rank's process has died, is stopped, or cannot be reached any more, while ranks
// compute or wait for each other: a wait in MPI alone says so only after the communicator's
// timeout, which a long step must not reach. A TCP connection from every rank to rank 0, over which
// a thread of each process sends a byte from time to time.
class Heartbeat {
 public:
  // Collective. `on_lost` is called once, by that thread: on rank 0 for any rank, on the others for
  // rank 0. Unavailable, on all ranks, if one cannot connect to rank 0 (over IPv4, at any port).
  static absl::StatusOr<std::unique_ptr<Heartbeat>> Start(
      Communicator& communicator, const HeartbeatOptions& options,
      std::function<void(const LostRank&)> on_lost);
  // Says goodbye: the others do not take this for a loss.
  virtual ~Heartbeat() = default;
};

}  // namespace longspan

#endif  // LONGSPAN_COLLECTIVES_HEARTBEAT_H_
