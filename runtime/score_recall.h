#ifndef LONGSPAN_RUNTIME_SCORE_RECALL_H_
#define LONGSPAN_RUNTIME_SCORE_RECALL_H_

#include <cstdint>
#include <vector>

#include "absl/types/span.h"
#include "runtime/layer_fits.h"

namespace longspan {

// What one layer selects from in a window of text that no fit has seen.
struct HeldOut {
  std::vector<float> queries;  // [queries, width] summed over groups
  std::vector<float> keys;     // [keys, width] all of them before each query
};

// The k best keys of each query by their dot product, ascending; ties go to the earlier key.
using TopKeys = std::vector<std::vector<int64_t>>;
// queries: [num_queries, dim], keys: [num_keys, dim], k at most num_keys.
TopKeys SelectTopKeys(const std::vector<float>& queries, const std::vector<float>& keys,
                      int64_t dim, int64_t k);

// How many numbers two ascending lists have in common.
int64_t CountCommon(absl::Span<const int64_t> a, absl::Span<const int64_t> b);

// Of each fit: what share of the exact top k of the window's queries its own top k has. k: from 1
// to the number of keys; there is a query.
std::vector<double> RecallOf(const HeldOut& window, int64_t width, int64_t k,
                             absl::Span<const ScoreFit> fits);

}  // namespace longspan

#endif  // LONGSPAN_RUNTIME_SCORE_RECALL_H_
