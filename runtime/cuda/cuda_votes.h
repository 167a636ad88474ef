#ifndef LONGSPAN_RUNTIME_CUDA_CUDA_VOTES_H_
#define LONGSPAN_RUNTIME_CUDA_CUDA_VOTES_H_

#include <cstdint>

#include "absl/status/status.h"
#include "kernels/cuda/prefill_score.h"
#include "kernels/cuda/select.h"
#include "runtime/cuda/cuda_run.h"

// Scores that several voters make, on GPUs (runtime/vote_scores.h).
namespace longspan {

// The maxima of `rows` queries in run->buffers become those over all ranks.
absl::Status ReduceMaxima(CudaRun* run, int64_t rows);

// Scores of a chunk's blocks. rows: of the gathered queries. Collective.
absl::Status ScoreBlocksByVotesCuda(CudaRun* run, const cuda::PrefillScoreArgs& score, int64_t rows,
                                    const cuda::PrefillScoresOut& out);

// run->buffers.scores [rows, count] of a step's tokens: of this rank's positions from
// keys.initial_tokens on. Leaves the middles in run->buffers.vote_blocks. Collective.
absl::Status ScoreTokensByVotesCuda(CudaRun* run, const cuda::DecodeSelectArgs& keys,
                                    int64_t count);

}  // namespace longspan

#endif  // LONGSPAN_RUNTIME_CUDA_CUDA_VOTES_H_
