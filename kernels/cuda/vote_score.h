#ifndef LONGSPAN_KERNELS_CUDA_VOTE_SCORE_H_
#define LONGSPAN_KERNELS_CUDA_VOTE_SCORE_H_

#include <cstdint>

#include "absl/status/status.h"
#include "kernels/cuda/device.h"
#include "kernels/cuda/prefill_score.h"
#include "kernels/vote.h"

// Scores that several voters make (docs/ALGORITHM.md, "Other scores"; kernels/vote.h), of a prefill
// chunk's blocks. decode_vote.h has those of decoded tokens. All ranks reduce `maxima`, and where
// voters are soft then the digits of `sums`, between the passes.
namespace longspan::cuda {

inline constexpr int64_t kMaxVoters = 65535;  // of a launch

// What voters' scores are made comparable by, of `rows` queries. In device memory.
struct VoteNorms {
  int64_t rows = 0;
  float* maxima = nullptr;  // [voters, rows]; of hard voters, who have one in common, [rows]
  // Of soft voters: sums of exponentials as kernels/vote.h counts them, 64 bits in the first half
  // of a place; then the digits of them, of 16 bits each, whose sums over up to 2^16 ranks fit.
  uint32_t* sums = nullptr;  // [voters, rows, kVoteSumDigits]
  float* weights = nullptr;  // [voters, rows] of soft voters
};
// Before the first pass: maxima of -inf, sums of 0.
absl::Status ClearVoteNorms(const Voters& voters, const VoteNorms& norms, Stream stream);
// Before and after the sums are reduced over the ranks: sums become digits, and those the weights
// of the blocks' queries.
absl::Status SplitVoteSums(const Voters& voters, const VoteNorms& norms, Stream stream);
absl::Status WeighVotes(const Voters& voters, const VoteNorms& norms, const ScoredBlock* blocks,
                        int num_blocks, Stream stream);

struct VoteScoreArgs {
  // `dim` is that of a key, voters.key_dim(); queries are [rows, voters.query_dim()].
  PrefillScoreArgs blocks;
  Voters voters;  // a slice of a key is a multiple of 16 bytes
};

// Raises norms.maxima of a query to the largest f_v(m; c) over this rank's own positions m of its
// block's middle. NaN raises nothing.
absl::Status PrefillVoteMaxima(const VoteScoreArgs& args, const VoteNorms& norms, Stream stream);

// Soft voters; norms.maxima are those over all ranks. Adds this rank's exponentials to norms.sums.
absl::Status PrefillVoteSums(const VoteScoreArgs& args, const VoteNorms& norms, Stream stream);

// As PrefillScores: F by shares of the vote, or by the largest of hard voters' scores. A position's
// bits depend on its key, the queries and the norms alone.
absl::Status PrefillVoteScores(const VoteScoreArgs& args, const VoteNorms& norms,
                               const PrefillScoresOut& out, Stream stream);

}  // namespace longspan::cuda

#endif  // LONGSPAN_KERNELS_CUDA_VOTE_SCORE_H_
