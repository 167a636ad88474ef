#ifndef LONGSPAN_KERNELS_SELECT_H_
#define LONGSPAN_KERNELS_SELECT_H_

#include <cstdint>
#include <vector>

#include "sharding/topk_merge.h"

namespace longspan {

// The larger of two scores; NaN only if both are.
inline float MaxScore(float a, float b) { return a > b || b != b ? a : b; }

// out[i] = max of scores over [i - proximity, i + proximity] clipped to [0, count), for i in
// [begin, end). NaN never wins. `out` may not overlap `scores`.
void Proximity(const float* scores, int64_t count, int64_t proximity, int64_t begin, int64_t end,
               float* out);

// Keeps the k first candidates (total order of sharding/topk_merge.h) of what it is shown.
class TopK {
 public:
  explicit TopK(int64_t k) : k_(k) {}

  // Shows the scores of the consecutive positions first_position, ...
  void Add(const float* scores, int64_t count, int64_t first_position);
  // Writes k candidates in no order, 0 ("none") where there are fewer, and begins anew.
  void Take(Candidate* out);

 private:
  void Shrink();

  int64_t k_;
  std::vector<Candidate> kept_;
  Candidate threshold_ = 0;  // the k-th so far: what does not exceed it cannot be kept
};

}  // namespace longspan

#endif  // LONGSPAN_KERNELS_SELECT_H_
