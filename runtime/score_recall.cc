#include "runtime/score_recall.h"

#include <algorithm>
#include <iterator>

#include "absl/types/span.h"
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

int64_t CountCommon(const TopKeys& a, const TopKeys& b) {
  LONGSPAN_CHECK(a.size() == b.size());
  std::vector<int64_t> both;
  for (size_t q = 0; q < a.size(); ++q) {
    std::set_intersection(a[q].begin(), a[q].end(), b[q].begin(), b[q].end(),
                          std::back_inserter(both));
  }
  return static_cast<int64_t>(both.size());
}

}  // namespace longspan
