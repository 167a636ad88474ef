#include "sharding/topk_merge.h"

#include <algorithm>
#include <functional>

namespace longspan {

std::vector<int64_t> MergeTopK(absl::Span<Candidate> candidates, int64_t k) {
  auto end = std::remove(candidates.begin(), candidates.end(), Candidate{0});
  if (end - candidates.begin() > k) {
    std::nth_element(candidates.begin(), candidates.begin() + k, end, std::greater<>());
    end = candidates.begin() + k;
  }
  std::vector<int64_t> positions(end - candidates.begin());
  std::transform(candidates.begin(), end, positions.begin(), PositionOf);
  std::sort(positions.begin(), positions.end());
  return positions;
}

}  // namespace longspan
