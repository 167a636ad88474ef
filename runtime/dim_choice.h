#ifndef LONGSPAN_RUNTIME_DIM_CHOICE_H_
#define LONGSPAN_RUNTIME_DIM_CHOICE_H_

#include <cstdint>
#include <vector>

#include "absl/types/span.h"

namespace longspan {

// Dimensions of each layer's compressed keys, which the ESA paper has the same for all and names
// their choice as future work.
struct DimChoice {
  std::vector<size_t> indices;  // [layers] into the dims to choose from
  std::vector<int64_t> dims;    // [layers]
  double mean_dim = 0;
  double mean_recall = 0;
  bool reached = false;  // the recall asked for, within rounding
};

// Greedy: from the fewest dimensions everywhere, the layer and step that gains the most recall for
// each number more to store, until the mean over the layers reaches `recall_target`, or nothing
// gains within a mean of `budget_dim` dimensions. Then layers go back to fewer where the mean still
// reaches it: the last step may have been larger than was needed. dims: ascending, the first at
// most `budget_dim`. recalls: [dims][layers].
DimChoice ChooseDims(absl::Span<const int64_t> dims,
                     const std::vector<std::vector<double>>& recalls, double recall_target,
                     int64_t budget_dim);

}  // namespace longspan

#endif  // LONGSPAN_RUNTIME_DIM_CHOICE_H_
