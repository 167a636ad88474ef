#include "runtime/cuda/cuda_votes.h"

#include "kernels/base/status_macros.h"
#include "kernels/cuda/decode_vote.h"
#include "kernels/cuda/vote_score.h"
#include "sharding/layer_schedule.h"

namespace longspan {
namespace {

// What makes the scores of `rows` queries comparable, over all ranks. maxima and sums: the passes
// over this rank's keys.
template <typename Maxima, typename Sums>
absl::StatusOr<cuda::VoteNorms> AgreeOnNorms(CudaRun* run, const cuda::ScoredBlock* blocks,
                                             int num_blocks, int64_t rows, Maxima&& maxima,
                                             Sums&& sums) {
  const Voters& voters = run->sizes.voters;
  const cuda::VoteNorms norms = {rows, run->buffers.maxima, run->buffers.vote_sums,
                                 run->buffers.vote_weights};
  LONGSPAN_RETURN_IF_ERROR(cuda::ClearVoteNorms(voters, norms, run->stream()));
  LONGSPAN_RETURN_IF_ERROR(maxima(norms));
  LONGSPAN_RETURN_IF_ERROR(ReduceMaxima(run, rows));
  if (!voters.soft) return norms;
  LONGSPAN_RETURN_IF_ERROR(sums(norms));
  LONGSPAN_RETURN_IF_ERROR(cuda::SplitVoteSums(voters, norms, run->stream()));
  if (run->ranks() > 1) {
    const CudaPhaseSpan reduction(run->phases, Phase::kMaxima);
    LONGSPAN_RETURN_IF_ERROR(run->gpu->communicator->AllReduceSum(
        "select.sums", norms.sums, voters.count * rows * kVoteSumDigits, run->stream()));
  }
  LONGSPAN_RETURN_IF_ERROR(cuda::WeighVotes(voters, norms, blocks, num_blocks, run->stream()));
  return norms;
}

}  // namespace

absl::Status ReduceMaxima(CudaRun* run, int64_t rows) {
  if (run->ranks() == 1) return absl::OkStatus();
  const CudaPhaseSpan span(run->phases, Phase::kMaxima);
  return run->gpu->communicator->AllReduceMax("select.maxima", run->buffers.maxima,
                                              run->sizes.maxima_of_query() * rows, run->stream());
}

absl::Status ScoreBlocksByVotesCuda(CudaRun* run, const cuda::PrefillScoreArgs& score, int64_t rows,
                                    const cuda::PrefillScoresOut& out) {
  const cuda::VoteScoreArgs args = {score, run->sizes.voters};
  LONGSPAN_ASSIGN_OR_RETURN(
      const cuda::VoteNorms norms,
      AgreeOnNorms(
          run, score.blocks, score.num_blocks, rows,
          [&](const auto& so_far) { return cuda::PrefillVoteMaxima(args, so_far, run->stream()); },
          [&](const auto& so_far) { return cuda::PrefillVoteSums(args, so_far, run->stream()); }));
  return cuda::PrefillVoteScores(args, norms, out, run->stream());
}

absl::Status ScoreTokensByVotesCuda(CudaRun* run, const cuda::DecodeSelectArgs& keys,
                                    int64_t count) {
  CudaBuffers& buffers = run->buffers;
  cuda::DecodeVoteArgs args;
  args.keys = keys;
  args.voters = run->sizes.voters;
  args.products = buffers.vote_products;
  args.product_stride = run->sizes.own_keys;
  args.blocks = buffers.vote_blocks;
  LONGSPAN_RETURN_IF_ERROR(cuda::DecodeVoteProducts(args, run->stream()));
  cuda::VoteNorms norms;
  // The largest of a token's scores changes no order.
  if (args.voters.soft) {
    LONGSPAN_ASSIGN_OR_RETURN(
        norms,
        AgreeOnNorms(
            run, args.blocks, keys.rows, keys.rows,
            [&](const auto& so_far) { return cuda::DecodeVoteMaxima(args, so_far, run->stream()); },
            [&](const auto& so_far) { return cuda::DecodeVoteSums(args, so_far, run->stream()); }));
  }
  return cuda::DecodeVoteScores(args, norms, {buffers.scores, count}, run->stream());
}

}  // namespace longspan
