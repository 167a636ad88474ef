#ifndef LONGSPAN_RUNTIME_CUDA_CUDA_ATTENTION_H_
#define LONGSPAN_RUNTIME_CUDA_CUDA_ATTENTION_H_

#include <cstdint>

#include "absl/status/status.h"
#include "absl/types/span.h"
#include "runtime/attention_context.h"
#include "runtime/cuda/cuda_run.h"

// Efficient selective attention (arXiv 2502.14477) on the GPU: runtime/kv_store.h and
// runtime/esa_attention.h for device memory. Keys, values and queries are those of run->buffers.
namespace longspan {

// Counts what a block of queries reads in one layer.
void CountAttended(const CudaRun& run, Range block);

// Stores a layer's keys and values of this rank's rows of the chunk. Collective.
absl::Status StoreChunkCuda(CudaRun* run, int64_t layer, const PrefillChunk& chunk);

// Prefill blocks: run->buffers.attended [rows of `blocks`] from queries, the first at row
// `first_row` of the chunk. Collective.
absl::Status AttendBlocksCuda(CudaRun* run, int64_t layer, KvShard* cache,
                              absl::Span<const PrefillBlock> blocks, int64_t first_row);

// Decode: the step's tokens, in device memory, so that a graph may be replayed for others.
struct CudaStep {
  int rows = 0;
  const cuda::DecodeRow* sequences = nullptr;  // device [rows]
  const int64_t* num_pages = nullptr;          // device [rows]
  absl::Span<const DecodeToken> tokens;        // of the host; not for what is captured
};
// Stores the tokens' keys and values, and attends: run->buffers.attended [rows]. Collective; only
// enqueues, unless the run is deterministic or its communicator waits.
absl::Status AttendTokensCuda(CudaRun* run, int64_t layer, const CudaStep& step);

}  // namespace longspan

#endif  // LONGSPAN_RUNTIME_CUDA_CUDA_ATTENTION_H_
