#ifndef LONGSPAN_KERNELS_REFERENCE_REFERENCE_H_
#define LONGSPAN_KERNELS_REFERENCE_REFERENCE_H_

#include <cstdint>
#include <vector>

#include "absl/types/span.h"
#include "kernels/attention.h"
#include "kernels/base/dtype.h"
#include "kernels/linear.h"
#include "kernels/score.h"
#include "kernels/vote.h"

// What every kernel computes, as plain loops in double precision: written for reading, and the
// judge of the fast kernels of every backend. Operations are as in kernels/*.h; queries are plain
// rows rather than panels, and results are doubles.
namespace longspan::reference {

// scores: [queries, keys.count], of rows queries: [num_queries, dim].
std::vector<double> Scores(const float* queries, int64_t num_queries, int64_t dim,
                           const ScoreKeys& keys);

// maxima: [num_queries], in and out.
void ScoreMaxima(const float* queries, int64_t num_queries, int64_t dim, const ScoreKeys& keys,
                 double* maxima);

// scores: [keys.count]; maxima: [num_queries].
void ScoreBlock(const float* queries, int64_t num_queries, int64_t dim, const ScoreKeys& keys,
                const float* maxima, double* scores);

// scores: [keys.count] of one query.
void ScoreToken(const float* query, int64_t dim, const ScoreKeys& keys, double* scores);

// sums: [num_queries], in and out, as numbers rather than units; of one voter's rows queries:
// [num_queries, dim].
void VoteSums(const float* queries, int64_t num_queries, int64_t dim, const ScoreKeys& keys,
              const float* maxima, double scale, double* sums);

// scores: [keys.count]; queries: [voters, num_queries, dim]; maxima, weights: [voters,
// num_queries].
void VoteBlock(const Voters& voters, const float* queries, int64_t num_queries,
               const ScoreKeys& keys, const float* maxima, const float* weights, double* scores);

// out: [dim].
void MeanRepresentative(const ScoreKeys& unit, int64_t dim, int64_t representatives, double* out);

// out: [end - begin].
void Proximity(const float* scores, int64_t count, int64_t proximity, int64_t begin, int64_t end,
               float* out);

// True if (score, position) `a` stands before `b` in the total order of the selection.
struct Scored {
  double score;
  int64_t position;
};
bool Before(const Scored& a, const Scored& b);

// Positions of the k first of scores[0], scores[1], ... at first_position, ..., in that order.
std::vector<int64_t> TopK(absl::Span<const float> scores, int64_t first_position, int64_t k);

// Keys and values: [positions.size(), kv_heads, head_dim], rotated where they are to be.
struct Keys {
  const float* keys = nullptr;
  const float* values = nullptr;
  std::vector<int64_t> positions;
};

// One softmax for each query and head over all far keys and the near keys not behind the query.
// near, far: [count, heads, head_dim] queries at first_position, ...
// output: [count, heads, head_dim]; lse: [count, heads]. Nothing to attend to gives 0 and -inf.
void BlockAttention(const AttentionShape& shape, const float* near, const float* far, int64_t count,
                    int64_t first_position, const Keys& near_keys, const Keys& far_keys,
                    double* output, double* lse);

// output: [rows, head_dim]; args.output is not used.
void MergePartials(const MergePartialsArgs& args, double* output);

// out: [rows, dim].
void RmsNorm(const float* x, const float* weight, int64_t rows, int64_t dim, float epsilon,
             double* out);

// out: [count].
void SwiGlu(const float* gate, const float* up, int64_t count, double* out);

// x, out: [heads, 2 * inverse_frequencies.size()].
void Rotate(absl::Span<const double> inverse_frequencies, const float* x, int64_t heads,
            int64_t position, double* out);

// y: [rows, out]; with args.accumulate added to args.y, which stays as it is.
void Linear(const LinearArgs& args, double* y);

}  // namespace longspan::reference

#endif  // LONGSPAN_KERNELS_REFERENCE_REFERENCE_H_
