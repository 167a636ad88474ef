#ifndef LONGSPAN_COLLECTIVES_DEVICE_STEPS_H_
#define LONGSPAN_COLLECTIVES_DEVICE_STEPS_H_

#include <cstdint>

#include "absl/status/status.h"
#include "absl/types/span.h"
#include "collectives/communicator.h"
#include "kernels/cuda/device.h"

// What the device communicators do on this rank's own GPU. All of it only enqueues.
namespace longspan {

// In place: each float becomes the integer of ordered_float.h, and the way back.
absl::Status OrderedFromFloats(float* data, int64_t count, cuda::Stream stream);
absl::Status FloatsFromOrdered(float* data, int64_t count, cuda::Stream stream);

// Copies what this rank sends to itself, of transfers that CheckTransfers has seen.
absl::Status CopyToSelf(absl::Span<const Transfer> sends, absl::Span<const Transfer> receives,
                        int rank, cuda::Stream stream);

}  // namespace longspan

#endif  // LONGSPAN_COLLECTIVES_DEVICE_STEPS_H_
