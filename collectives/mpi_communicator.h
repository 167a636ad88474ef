#ifndef LONGSPAN_COLLECTIVES_MPI_COMMUNICATOR_H_
#define LONGSPAN_COLLECTIVES_MPI_COMMUNICATOR_H_

#include <memory>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "collectives/communicator.h"

namespace longspan {

// How many processes the launcher says it started, from the environment that Open MPI, the PMI
// launchers and srun set; 0 if none of them started this process.
int LaunchedRanks();
inline bool LaunchedByMpirun() { return LaunchedRanks() > 0; }

struct MpiOptions {
  CommunicatorOptions communicator;
  int expected_ranks = 0;  // refuse any other size of the world; 0: whatever the launcher started
};

// MPI in this process, from Start to Finish. At most one, once.
//
// A wait that times out prints where every rank is and ends the job with MPI_Abort. Ranks that wait
// answer the question where they are; for one that does not, the report has the last call in which
// this rank saw it. If a rank dies by a signal or exits early, mpirun itself ends the job.
class MpiSession {
 public:
  // Fails if the world is not as large as the launcher or `options` say, as when the launcher and
  // the MPI library do not know each other and every process is alone in a world of its own.
  static absl::StatusOr<std::unique_ptr<MpiSession>> Start(const MpiOptions& options);
  // Without Finish, ends all ranks: this one is leaving while others may wait for it.
  ~MpiSession();

  Communicator& world() { return *world_; }
  int rank_on_node() const { return rank_on_node_; }
  int ranks_on_node() const { return ranks_on_node_; }

  // Waits for all ranks, then ends MPI. Nothing may be called after it.
  absl::Status Finish();

 private:
  MpiSession() = default;

  std::unique_ptr<Communicator> world_;
  int rank_on_node_ = 0;
  int ranks_on_node_ = 1;
  bool finished_ = false;
};

}  // namespace longspan

#endif  // LONGSPAN_COLLECTIVES_MPI_COMMUNICATOR_H_
