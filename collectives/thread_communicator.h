#ifndef LONGSPAN_COLLECTIVES_THREAD_COMMUNICATOR_H_
#define LONGSPAN_COLLECTIVES_THREAD_COMMUNICATOR_H_

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "collectives/communicator.h"

namespace longspan {

// Runs `body` once a rank, all ranks at once: rank 0 on the calling thread, each other on a thread
// of its own. Returns when every rank has returned, with the first error in time.
//
// When a rank fails (by an error, an exception, or Abort), or returns while others wait for it, the
// blocked and later calls of all others fail at once with its error. A rank that never returns from
// its own computation cannot be ended: the others report a timeout, but this call waits for it.
absl::Status RunThreadRanks(int ranks, absl::FunctionRef<absl::Status(Communicator&)> body,
                            const CommunicatorOptions& options = {});

}  // namespace longspan

#endif  // LONGSPAN_COLLECTIVES_THREAD_COMMUNICATOR_H_
