#ifndef LONGSPAN_KERNELS_VOTE_H_
#define LONGSPAN_KERNELS_VOTE_H_

#include <cstdint>

#include "kernels/score.h"

namespace longspan {

// Scores that several voters make, each of which reads a slice of query and key: a query head that
// of its key head, or a group of compressed dimensions itself (docs/ALGORITHM.md, "Other scores").
// With f_v(m; c) = slice of the query . slice of the key, a voter's share of its vote is
//   p_v(m; c) = exp(scale (f_v(m; c) - maximum)) / sum,
// maximum and sum over all keys of the middle, wherever they are (soft votes: TokenSelect, arXiv
// 2411.02886).
struct Voters {
  int64_t count = 0;
  int64_t dim = 0;         // numbers of a slice
  int64_t to_a_slice = 1;  // consecutive voters that read the same slice of the key
  float scale = 1;
  bool soft = false;  // they vote by shares; else the largest f_v is the score

  int64_t query_dim() const { return count * dim; }
  int64_t key_dim() const { return count / to_a_slice * dim; }
};

// What a voter reads of `keys`, [count, key_dim].
ScoreKeys SliceOf(const Voters& voters, int64_t voter, const ScoreKeys& keys);

// Sums of exponentials are counted in units of 2^-bits, as integers, so that they do not depend on
// the order of keys or ranks; each exponential is rounded to that. As many bits as the sum over
// `keys` keys leaves room for in 62. The error of a sum, which is at least 1, is at most
// keys * 2^-(bits + 1).
int SumBits(int64_t keys);

// What a voter's exponentials are multiplied by: 1 / sum; 0 if the sum is 0, as no term was finite.
float VoteWeight(int64_t sum, int bits);

// sums[c] += exp(scale (f(m; c) - maxima[c])) over the keys, in units of 2^-bits, for one voter.
// Terms that are NaN are passed over.
struct VoteSumsArgs {
  const float* queries = nullptr;  // panels, as in score.h
  int64_t num_panels = 0;
  int64_t dim = 0;
  ScoreKeys keys;
  const float* maxima = nullptr;  // [num_panels * kPanelLanes]
  float scale = 1;
  int bits = 0;
  int64_t* sums = nullptr;  // [num_panels * kPanelLanes], in and out
};
void VoteSums(const VoteSumsArgs& args);

// scores[m] = max over the block's queries c of the sum over voters of p_v(m; c), in order of
// voters. A query for which a term is NaN is passed over; a key that has no other scores NaN.
struct VoteBlockArgs {
  Voters voters;
  const float* queries = nullptr;  // [voters, panels]
  int64_t num_panels = 0;
  ScoreKeys keys;                  // [count, key_dim]
  const float* maxima = nullptr;   // [voters, num_panels * kPanelLanes]
  const float* weights = nullptr;  // the same; NaN in lanes without a query
  float* scores = nullptr;         // [keys.count]
};
void VoteBlock(const VoteBlockArgs& args);

// Decode: the same of one voter's scores f(m) of one query. The sum, and what is added to votes.
int64_t VoteSum(const float* scores, int64_t count, float maximum, float scale, int bits);
void AddVotes(const float* scores, int64_t count, float maximum, float scale, float weight,
              float* votes);

}  // namespace longspan

#endif  // LONGSPAN_KERNELS_VOTE_H_
