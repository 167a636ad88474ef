#ifndef LONGSPAN_KERNELS_CUDA_PREFILL_SCORE_PROBLEM_CUH_
#define LONGSPAN_KERNELS_CUDA_PREFILL_SCORE_PROBLEM_CUH_

#include <cstdint>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "kernels/cuda/prefill_score.h"
#include "kernels/cuda/prefill_score_jobs.cuh"

// How the host makes problems of the kernels that score a chunk's blocks, by one score of each
// query (prefill_score.h) or by several voters (vote_score.h), and finishes them.
namespace longspan::cuda::scoring {

// Pass one. InvalidArgument: what PrefillScoreArgs does not allow.
absl::StatusOr<Problem> MakeProblem(const PrefillScoreArgs& args);
// The last pass, which leaves the best of each entry in out.workspace for Spread.
absl::StatusOr<Problem> MakeScoresProblem(const PrefillScoreArgs& args, const float* maxima,
                                          const PrefillScoresOut& out);
absl::Status Spread(const Problem& problem, const PrefillScoresOut& out, Stream stream);

int Multiprocessors();  // of the current device

// Into how many parts the key tiles are cut for each of `groups` tiles of queries, so that `blocks`
// thread blocks, which take the items one by one, end soon.
int SplitsFor(int64_t groups, int key_tiles, int blocks);

}  // namespace longspan::cuda::scoring

#endif  // LONGSPAN_KERNELS_CUDA_PREFILL_SCORE_PROBLEM_CUH_
