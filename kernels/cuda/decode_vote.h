#ifndef LONGSPAN_KERNELS_CUDA_DECODE_VOTE_H_
#define LONGSPAN_KERNELS_CUDA_DECODE_VOTE_H_

#include <cstdint>

#include "absl/status/status.h"
#include "kernels/cuda/device.h"
#include "kernels/cuda/select.h"
#include "kernels/cuda/vote_score.h"
#include "kernels/vote.h"

// Scores that several voters make of decoded tokens: vote_score.h for one query of each of several
// sequences. No size of a launch depends on their lengths, so that a graph can be replayed.
namespace longspan::cuda {

struct DecodeVoteArgs {
  // Sequences and keys; `queries` are [rows, voters.query_dim()]. top_k and selected are not used.
  DecodeSelectArgs keys;
  Voters voters;  // a slice of a key is a multiple of 16 bytes
  // What the calls leave for each other, in device memory. product_stride is at least MaxKeys.
  float* products = nullptr;  // [rows, voters, product_stride] f_v(m)
  int64_t product_stride = 0;
  ScoredBlock* blocks = nullptr;  // [rows]: one query each, and the middle
};

// Reads the keys: products, and blocks.
absl::Status DecodeVoteProducts(const DecodeVoteArgs& args, Stream stream);
// Of soft voters, from the products: as in vote_score.h, for norms of keys.rows queries.
absl::Status DecodeVoteMaxima(const DecodeVoteArgs& args, const VoteNorms& norms, Stream stream);
absl::Status DecodeVoteSums(const DecodeVoteArgs& args, const VoteNorms& norms, Stream stream);

// scores[r][i], for i < count: the score, spread over proximity, of the own position of local index
// OwnedBefore(keys.initial_tokens) + i, with which no middle begins later; NaN behind the middle.
// Hard voters need no norms. Overwrites products.
struct DecodeVotesOut {
  float* scores = nullptr;  // device [rows, count]
  int64_t count = 0;
};
absl::Status DecodeVoteScores(const DecodeVoteArgs& args, const VoteNorms& norms,
                              const DecodeVotesOut& out, Stream stream);

}  // namespace longspan::cuda

#endif  // LONGSPAN_KERNELS_CUDA_DECODE_VOTE_H_
