#ifndef LONGSPAN_RUNTIME_SCORE_FIT_H_
#define LONGSPAN_RUNTIME_SCORE_FIT_H_

#include <cstdint>
#include <vector>

#include "absl/status/statusor.h"
#include "runtime/rope_config.h"

namespace longspan {

// Closed-form fit of the score's low-rank factors (docs/ALGORITHM.md, "Fitting A and B"). With
// Cq = E qq^T of the group-summed queries and Ck the covariance of the concatenated keys about
// their mean, the rank-d' map that minimises the error of the centred scores is
//   W = Cq^-1/2 [Cq^1/2 Ck^1/2]_d' Ck^-1/2,
// and A = Cq^-1/2 U S^1/2, B = Ck^-1/2 V S^1/2 with U S V^T the truncated SVD.

// Sums of one layer over the calibration text. Added up over ranks as they are.
struct LayerMoments {
  explicit LayerMoments(int64_t width) : query(width * width), key(width * width), key_sum(width) {}

  std::vector<double> query;    // [width, width] sum of q q^T, upper triangle
  std::vector<double> key;      // [width, width] sum of k k^T, upper triangle
  std::vector<double> key_sum;  // [width]
  double count = 0;

  // queries and keys: [rows, width].
  void Add(const float* queries, const float* keys, int64_t rows, int64_t width);
};

struct LayerFactors {
  std::vector<float> query;  // A [width, dim]
  std::vector<float> key;    // B [width, dim]
};

// InvalidArgument if dim exceeds width or nothing was added. Columns are ordered by singular value.
absl::StatusOr<LayerFactors> FitFactors(const LayerMoments& moments, int64_t width, int64_t dim);
// The dim first principal components of the keys about their mean, as both A and B: what is often
// done, and knows nothing of the queries. Columns are ordered by variance. Errors as above.
absl::StatusOr<LayerFactors> FitPca(const LayerMoments& moments, int64_t width, int64_t dim);

// Tells what share of the centred scores' variance factors keep, of one layer.
class ScoreVariance {
 public:
  ScoreVariance(const LayerMoments& moments, int64_t width);

  // 1 - E_q Var_k( q . (I - A B^T) k ) / E_q Var_k( q . k ) of any factors [width, dim]; below 0
  // where no factors at all would do better.
  double Explained(const LayerFactors& factors, int64_t dim) const;

 private:
  int64_t width_;
  std::vector<double> query_, key_;  // [width, width]: E qq^T, and of the keys about their mean
  double all_ = 0;                   // E_q Var_k( q . k )
};

// The first `count` columns of both factors [width, dim]: the fit of a smaller dim, where columns
// are ordered.
LayerFactors FirstColumns(const LayerFactors& factors, int64_t width, int64_t count);

// `esa.target: far`: factors that were fitted to queries rotated to `position`, changed so that
// they take queries before RoPE. A^T R q = (R^T A)^T q, R the rotation of each key head's part.
void FoldRotation(const RopeConfig& rope, int64_t head_dim, int64_t position, int64_t dim,
                  LayerFactors* factors);

}  // namespace longspan

#endif  // LONGSPAN_RUNTIME_SCORE_FIT_H_
