#include "runtime/dim_choice.h"

#include <numeric>

#include "kernels/base/check.h"

namespace longspan {
namespace {

struct Raise {
  size_t layer = 0;
  size_t to = 0;          // index into dims
  double per_number = 0;  // recall gained for each dimension more; 0: there is none
};

Raise BestRaise(absl::Span<const int64_t> dims, const std::vector<std::vector<double>>& recalls,
                const std::vector<size_t>& chosen, int64_t left) {
  Raise best;
  for (size_t layer = 0; layer < chosen.size(); ++layer) {
    const size_t from = chosen[layer];
    // Not the next step alone: a gain may lie behind one that gains nothing.
    for (size_t to = from + 1; to < dims.size() && dims[to] - dims[from] <= left; ++to) {
      const double gain =
          (recalls[to][layer] - recalls[from][layer]) / static_cast<double>(dims[to] - dims[from]);
      if (gain > best.per_number) best = {layer, to, gain};
    }
  }
  return best;
}

}  // namespace

DimChoice ChooseDims(absl::Span<const int64_t> dims,
                     const std::vector<std::vector<double>>& recalls, double recall_target,
                     int64_t budget_dim) {
  LONGSPAN_CHECK(!dims.empty() && dims[0] <= budget_dim && recalls.size() == dims.size());
  const size_t layers = recalls[0].size();
  std::vector<size_t> chosen(layers, 0);
  int64_t left = (budget_dim - dims[0]) * static_cast<int64_t>(layers);
  double recall = std::accumulate(recalls[0].begin(), recalls[0].end(), 0.0);
  while (recall < recall_target * static_cast<double>(layers)) {
    const Raise raise = BestRaise(dims, recalls, chosen, left);
    if (raise.per_number == 0) break;
    size_t& index = chosen[raise.layer];
    recall += recalls[raise.to][raise.layer] - recalls[index][raise.layer];
    left -= dims[raise.to] - dims[index];
    index = raise.to;
  }
  DimChoice choice;
  for (size_t layer = 0; layer < layers; ++layer) {
    choice.dims.push_back(dims[chosen[layer]]);
    choice.recalls.push_back(recalls[chosen[layer]][layer]);
    choice.mean_dim += static_cast<double>(choice.dims.back()) / static_cast<double>(layers);
    choice.mean_recall += choice.recalls.back() / static_cast<double>(layers);
  }
  return choice;
}

}  // namespace longspan
