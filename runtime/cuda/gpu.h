#ifndef LONGSPAN_RUNTIME_CUDA_GPU_H_
#define LONGSPAN_RUNTIME_CUDA_GPU_H_

#include <memory>

#include "absl/status/statusor.h"
#include "collectives/communicator.h"
#include "collectives/device_communicator.h"
#include "kernels/cuda/device.h"
#include "runtime/config.h"
#include "runtime/kv_shard.h"

namespace longspan {

// The GPU of one rank.
struct Gpu {
  int device = 0;
  cuda::DeviceInfo info;
  int sharers = 1;            // ranks that use it, this one included
  int ranks_on_host = 1;      // on any of its GPUs
  cuda::StreamHandle stream;  // of all but
  cuda::StreamHandle ring;    // keys and values on their way to this rank
  cuda::Event event;
  std::unique_ptr<DeviceCommunicator> communicator;

  cuda::Stream s() const { return stream.get(); }
  // What is put in `later` from now on starts after what is in `first` now.
  absl::Status Order(const cuda::StreamHandle& first, const cuda::StreamHandle& later);
  // Multiprocessors that a kernel of this rank may hold all at once.
  int multiprocessors() const { return info.multiprocessors / sharers; }
};

// The rank's GPU by its place among the ranks of `world` on its host, and a communicator between
// the GPUs of the ranks that share a model, all of `world` or this one alone: NCCL or, with
// `parallel.communicator` mpi or threads, pinned host memory. Collective: every rank of `world`
// returns the same error.
absl::StatusOr<std::unique_ptr<Gpu>> OpenGpu(const Config& config, Communicator* world,
                                             Communicator* of_model);

absl::Status NoGpu();

// For cache pages: in device memory, or page-locked on the host, which the GPU reads over its bus.
absl::StatusOr<Memory> AllocateDeviceMemory(int64_t bytes);
absl::StatusOr<Memory> AllocatePinnedMemory(int64_t bytes);
// Between two such; forward passes have ended, and none may begin before it returns.
absl::Status CopyGpuMemory(std::byte* to, const std::byte* from, int64_t bytes);

}  // namespace longspan

#endif  // LONGSPAN_RUNTIME_CUDA_GPU_H_
