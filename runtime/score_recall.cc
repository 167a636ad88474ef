#include "runtime/score_recall.h"

#include <algorithm>
#include <iterator>

#include "kernels/base/check.h"
#include "kernels/score.h"
#include "kernels/select.h"
#include "sharding/topk_merge.h"

namespace longspan {

TopKeys SelectTopKeys(const std::vector<float>& queries, const std::vector<float>& keys,
                      int64_t dim, int64_t k) {
  const auto num_keys = static_cast<int64_t>(keys.size()) / dim;
  LONGSPAN_CHECK(k <= num_keys);
  std::vector<float> scores(num_keys);
  std::vector<Candidate> candidates(k);
  TopKeys top_keys;
  for (const float* query = queries.data(); query != queries.data() + queries.size();
       query += dim) {
    ScoreToken(query, dim, {keys.data(), DType::kFloat32, num_keys}, scores.data());
    TopK top(k);
    top.Add(scores.data(), num_keys, 0);
    top.Take(candidates.data());
    top_keys.push_back(MergeTopK(absl::MakeSpan(candidates), k));
  }
  return top_keys;
}

int64_t CountCommon(absl::Span<const int64_t> a, absl::Span<const int64_t> b) {
  std::vector<int64_t> both;
  std::set_intersection(a.begin(), a.end(), b.begin(), b.end(), std::back_inserter(both));
  return static_cast<int64_t>(both.size());
}

std::vector<double> RecallOf(const HeldOut& window, int64_t width, int64_t k,
                             absl::Span<const ScoreFit> fits) {
  const auto num_queries = static_cast<int64_t>(window.queries.size()) / width;
  const auto num_keys = static_cast<int64_t>(window.keys.size()) / width;
  const TopKeys exact = SelectTopKeys(window.queries, window.keys, width, k);
  std::vector<double> recalls;
  for (const ScoreFit& fit : fits) {
    const TopKeys found =
        SelectTopKeys(Apply(fit.maps.query, window.queries.data(), num_queries),
                      Apply(fit.maps.key, window.keys.data(), num_keys), fit.maps.key.dim, k);
    int64_t common = 0;
    for (int64_t q = 0; q < num_queries; ++q) common += CountCommon(exact[q], found[q]);
    recalls.push_back(static_cast<double>(common) / static_cast<double>(k * num_queries));
  }
  return recalls;
}

}  // namespace longspan
