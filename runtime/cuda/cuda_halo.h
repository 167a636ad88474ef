#ifndef LONGSPAN_RUNTIME_CUDA_CUDA_HALO_H_
#define LONGSPAN_RUNTIME_CUDA_CUDA_HALO_H_

#include <cstdint>

#include "absl/status/status.h"
#include "runtime/cuda/cuda_run.h"

namespace longspan {

// Sends the score keys at the edges of the chunk's stripes to the ranks that keep them as halos.
// Collective.
absl::Status ExchangeHalosCuda(CudaRun* run, int64_t layer, const PrefillChunk& chunk);

}  // namespace longspan

#endif  // LONGSPAN_RUNTIME_CUDA_CUDA_HALO_H_
