#include <cmath>

#include "kernels/reference/reference.h"

namespace longspan::reference {

void VoteSums(const float* queries, int64_t num_queries, int64_t dim, const ScoreKeys& keys,
              const float* maxima, double scale, double* sums) {
  const std::vector<double> scores = Scores(queries, num_queries, dim, keys);
  for (int64_t c = 0; c < num_queries; ++c) {
    for (int64_t m = 0; m < keys.count; ++m) {
      const double term = std::exp(scale * (scores[c * keys.count + m] - maxima[c]));
      if (!std::isnan(term)) sums[c] += term;
    }
  }
}

void VoteBlock(const Voters& voters, const float* queries, int64_t num_queries,
               const ScoreKeys& keys, const float* maxima, const float* weights, double* scores) {
  std::vector<double> votes(num_queries * keys.count, 0.0);
  for (int64_t v = 0; v < voters.count; ++v) {
    const std::vector<double> f = Scores(queries + v * num_queries * voters.dim, num_queries,
                                         voters.dim, SliceOf(voters, v, keys));
    for (int64_t c = 0; c < num_queries; ++c) {
      for (int64_t m = 0; m < keys.count; ++m) {
        const double excess = f[c * keys.count + m] - maxima[v * num_queries + c];
        votes[c * keys.count + m] += std::exp(voters.scale * excess) * weights[v * num_queries + c];
      }
    }
  }
  for (int64_t m = 0; m < keys.count; ++m) {
    scores[m] = std::nan("");
    for (int64_t c = 0; c < num_queries; ++c) {
      scores[m] = std::fmax(scores[m], votes[c * keys.count + m]);
    }
  }
}

}  // namespace longspan::reference
