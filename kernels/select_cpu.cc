#include <algorithm>
#include <functional>

#include "kernels/select.h"

namespace longspan {

void Proximity(const float* scores, int64_t count, int64_t proximity, int64_t begin, int64_t end,
               float* out) {
  // Maxima of runs of 1, 2, 4, ... scores, until two runs cover a window.
  const int64_t window = 2 * proximity + 1;
  std::vector<float> run(scores, scores + count);
  int64_t length = 1;
  for (; 2 * length <= window; length *= 2) {
    for (int64_t i = 0; i + length < count; ++i) run[i] = MaxScore(run[i], run[i + length]);
  }
  for (int64_t i = begin; i < end; ++i) {
    const int64_t first = std::max<int64_t>(0, i - proximity);
    const int64_t last = std::min(count - 1, i + proximity);
    if (last - first + 1 >= length) {
      out[i - begin] = MaxScore(run[first], run[last + 1 - length]);
    } else {
      float best = scores[first];
      for (int64_t j = first + 1; j <= last; ++j) best = MaxScore(best, scores[j]);
      out[i - begin] = best;
    }
  }
}

void TopK::Add(const float* scores, int64_t count, int64_t first_position) {
  // Enough slack that a shrink costs little per candidate.
  const size_t capacity = static_cast<size_t>(4 * k_ + 1024);
  for (int64_t i = 0; i < count; ++i) {
    const Candidate candidate = PackCandidate(scores[i], first_position + i);
    if (candidate <= threshold_) continue;
    kept_.push_back(candidate);
    if (kept_.size() >= capacity) Shrink();
  }
}

void TopK::Shrink() {
  if (static_cast<int64_t>(kept_.size()) <= k_) return;
  if (k_ > 0) {
    std::nth_element(kept_.begin(), kept_.begin() + k_ - 1, kept_.end(), std::greater<>());
    threshold_ = kept_[k_ - 1];
  }
  kept_.resize(k_);
}

void TopK::Take(Candidate* out) {
  Shrink();
  std::fill(std::copy(kept_.begin(), kept_.end(), out), out + k_, Candidate{0});
  kept_.clear();
  threshold_ = 0;
}

}  // namespace longspan
