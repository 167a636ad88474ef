#ifndef LONGSPAN_COLLECTIVES_NCCL_COMMUNICATOR_H_
#define LONGSPAN_COLLECTIVES_NCCL_COMMUNICATOR_H_

#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "collectives/communicator.h"
#include "collectives/device_communicator.h"

namespace longspan {

// "2.28.9", of the library that runs; empty if this build has no NCCL.
std::string NcclVersion();

// Collectives of NCCL between the GPUs of the ranks of `host`, which must outlive it: it carries
// what NCCL needs to start, agrees on errors, and its timeout at the time is that of every wait.
// Collective; every error is the same on all ranks (IsAgreed). Uses `device` from now on.
//
// Calls return when NCCL has put them in the stream, which happens on a thread of its own: never
// later than the timeout, even if another rank died. FailedPrecondition: the NCCL libraries of the
// ranks are too old or differ, or ranks share a GPU where NCCL does not allow it. Unimplemented:
// this build has no NCCL.
absl::StatusOr<std::unique_ptr<DeviceCommunicator>> MakeNcclCommunicator(Communicator* host,
                                                                         int device);

}  // namespace longspan

#endif  // LONGSPAN_COLLECTIVES_NCCL_COMMUNICATOR_H_
