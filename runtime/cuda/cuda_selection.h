#ifndef LONGSPAN_RUNTIME_CUDA_CUDA_SELECTION_H_
#define LONGSPAN_RUNTIME_CUDA_CUDA_SELECTION_H_

#include <cstdint>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "runtime/cuda/cuda_attention.h"
#include "runtime/cuda/cuda_run.h"

namespace longspan {

// Both leave selected [blocks or rows, top_k] and counts in run->buffers, the same on all ranks.
// Collective.
absl::Status SelectForBlocksCuda(CudaRun* run, int64_t layer, KvShard* cache,
                                 absl::Span<const PrefillBlock> blocks, int64_t first_row);
// run->buffers.token_queries are what the score reads of the tokens' queries.
absl::Status SelectForTokensCuda(CudaRun* run, int64_t layer, const CudaStep& step);

// What exact scores read of run->buffers.queries: `to` [rows, voters.query_dim()] of `dtype`, sums
// over groups or each head's, as attention to far keys has them if those are the target. What
// buffers.stacked holds is lost.
absl::Status ExactScoreQueries(CudaRun* run, int64_t rows, void* to, DType dtype);

// Selected positions, ascending, on the host. Waits for the stream.
absl::StatusOr<std::vector<std::vector<int64_t>>> DownloadSelections(CudaRun* run, int64_t rows);

}  // namespace longspan

#endif  // LONGSPAN_RUNTIME_CUDA_CUDA_SELECTION_H_
