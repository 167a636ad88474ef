#ifndef LONGSPAN_RUNTIME_SCORE_RECALL_H_
#define LONGSPAN_RUNTIME_SCORE_RECALL_H_

#include <cstdint>
#include <vector>

namespace longspan {

// Queries and keys of one layer that no fit has seen.
struct HeldOut {
  std::vector<float> queries;  // [queries, width] summed over groups
  std::vector<float> keys;     // [keys, width]
};

// The k best keys of each query by their dot product, ascending; ties go to the earlier key.
using TopKeys = std::vector<std::vector<int64_t>>;
// queries: [num_queries, dim], keys: [num_keys, dim], k at most num_keys.
TopKeys SelectTopKeys(const std::vector<float>& queries, const std::vector<float>& keys,
                      int64_t dim, int64_t k);

// How many a and b have in common, over all queries.
int64_t CountCommon(const TopKeys& a, const TopKeys& b);

}  // namespace longspan

#endif  // LONGSPAN_RUNTIME_SCORE_RECALL_H_
