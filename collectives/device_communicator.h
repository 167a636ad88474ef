#ifndef LONGSPAN_COLLECTIVES_DEVICE_COMMUNICATOR_H_
#define LONGSPAN_COLLECTIVES_DEVICE_COMMUNICATOR_H_

#include <cstddef>
#include <cstdint>
#include <string_view>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "collectives/communicator.h"
#include "kernels/cuda/device.h"

// What ranks with a GPU each say to each other from device memory: over NCCL
// (nccl_communicator.h), or over any Communicator by way of pinned host memory
// (staged_communicator.h).
namespace longspan {

// Every call but the accessors is collective: all ranks make the same calls in the same order, with
// the same name (a string literal, as with Communicator). Calls take their place in the stream:
// what they read was written by work before them, and what they write is there for work behind
// them. Sizes of zero are allowed. After an error the communicator is broken; only arguments that
// it refuses before it tells the others anything leave it as it was. Not thread-safe.
//
// Destroy it on all ranks, after its calls have ended (Synchronize) and after the graphs that have
// captured them: a communicator waits for its graphs.
class DeviceCommunicator {
 public:
  virtual ~DeviceCommunicator() = default;
  virtual int rank() const = 0;
  virtual int size() const = 0;
  // True: calls only enqueue, and may be captured in a CUDA graph. False: they wait on the host
  // until all is done.
  virtual bool stream_ordered() const = 0;

  // receive: [size(), bytes_per_rank] in rank order. `send` may be this rank's own part of it.
  virtual absl::Status AllGather(std::string_view name, const void* send, void* receive,
                                 int64_t bytes_per_rank, cuda::Stream stream) = 0;
  // In place, elementwise, the same bits on every rank. A NaN counts as -inf, and +0 is above -0.
  virtual absl::Status AllReduceMax(std::string_view name, float* data, int64_t count,
                                    cuda::Stream stream) = 0;
  // In place, elementwise, modulo 2^32.
  virtual absl::Status AllReduceSum(std::string_view name, uint32_t* data, int64_t count,
                                    cuda::Stream stream) = 0;
  // All sends and receives at once (Communicator::StartExchange says how they match).
  virtual absl::Status Exchange(std::string_view name, absl::Span<const Transfer> sends,
                                absl::Span<const Transfer> receives, cuda::Stream stream) = 0;

  // Device memory that lives as long as the communicator; null for no bytes on any rank. Ranks may
  // ask for different sizes, but pass the same offsets in it (except for the own part of a gather
  // in place): a gather may then write into the other GPUs' memory directly. Where the GPUs or NCCL
  // cannot do that it is plain memory. To be called while no graph holds a call.
  // ResourceExhausted: there is no room.
  virtual absl::StatusOr<std::byte*> AllocateShared(int64_t bytes) = 0;

  // Waits for the stream, as long as the communicator's timeout allows; a failure or a timeout of
  // a collective in it is an error that names the last call.
  virtual absl::Status Synchronize(cuda::Stream stream) = 0;

  // Of the calls made, not of the replays of graphs. The seconds are this thread's: a call that
  // only enqueues waits in Synchronize, which counts as "synchronize".
  virtual const CommunicatorStats& stats() const = 0;
};

}  // namespace longspan

#endif  // LONGSPAN_COLLECTIVES_DEVICE_COMMUNICATOR_H_
