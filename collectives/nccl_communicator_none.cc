#include "absl/status/status.h"
#include "collectives/agree.h"
#include "collectives/nccl_communicator.h"

// In place of nccl_communicator.cc, in a build with LONGSPAN_NCCL=OFF.
namespace longspan {

std::string NcclVersion() { return ""; }

absl::StatusOr<std::unique_ptr<DeviceCommunicator>> MakeNcclCommunicator(Communicator* host,
                                                                         int /*device*/) {
  return AgreeOnStatus(host, absl::UnimplementedError(
                                 "this build has no NCCL: configure it with -DLONGSPAN_NCCL=ON, "
                                 "or use `parallel.communicator: mpi`"));
}

}  // namespace longspan
