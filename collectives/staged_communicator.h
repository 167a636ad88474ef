#ifndef LONGSPAN_COLLECTIVES_STAGED_COMMUNICATOR_H_
#define LONGSPAN_COLLECTIVES_STAGED_COMMUNICATOR_H_

#include <memory>

#include "collectives/communicator.h"
#include "collectives/device_communicator.h"

namespace longspan {

// Carries what is in device memory over `communicator`, which must outlive it, by way of
// page-locked host memory that grows to the largest call. Every call waits for its stream; only a
// rank that is alone has nothing to wait for. Several ranks may share a GPU. Uses the device that
// is the calling thread's at each call.
std::unique_ptr<DeviceCommunicator> MakeStagedCommunicator(Communicator* communicator);

}  // namespace longspan

#endif  // LONGSPAN_COLLECTIVES_STAGED_COMMUNICATOR_H_
