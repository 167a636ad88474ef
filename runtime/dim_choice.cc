#include "runtime/dim_choice.h"

#include <optional>

#include "kernels/base/check.h"

namespace longspan {
namespace {

using Recalls = std::vector<std::vector<double>>;  // [dims][layers]

double MeanRecall(const Recalls& recalls, const std::vector<size_t>& chosen) {
  double sum = 0;
  for (size_t layer = 0; layer < chosen.size(); ++layer) sum += recalls[chosen[layer]][layer];
  return sum / static_cast<double>(chosen.size());
}

bool Reaches(const Recalls& recalls, const std::vector<size_t>& chosen, double target) {
  constexpr double kRounding = 1e-9;
  return MeanRecall(recalls, chosen) >= target - kRounding;
}

// Another number of dimensions for one layer.
struct Move {
  size_t layer = 0;
  size_t to = 0;  // index into dims
};

std::optional<Move> BestRaise(absl::Span<const int64_t> dims, const Recalls& recalls,
                              const std::vector<size_t>& chosen, int64_t left) {
  std::optional<Move> best;
  double most = 0;  // recall gained for each dimension more
  for (size_t layer = 0; layer < chosen.size(); ++layer) {
    const size_t from = chosen[layer];
    // Not the next step alone: a gain may lie behind one that gains nothing.
    for (size_t to = from + 1; to < dims.size() && dims[to] - dims[from] <= left; ++to) {
      const double gain =
          (recalls[to][layer] - recalls[from][layer]) / static_cast<double>(dims[to] - dims[from]);
      if (gain <= most) continue;
      best = Move{layer, to};
      most = gain;
    }
  }
  return best;
}

// What saves the most dimensions and keeps the target reached.
std::optional<Move> BestCut(absl::Span<const int64_t> dims, const Recalls& recalls,
                            const std::vector<size_t>& chosen, double target) {
  std::optional<Move> best;
  int64_t most = 0;
  for (size_t layer = 0; layer < chosen.size(); ++layer) {
    for (size_t to = 0; to < chosen[layer]; ++to) {
      const int64_t saved = dims[chosen[layer]] - dims[to];
      std::vector<size_t> cut = chosen;
      cut[layer] = to;
      if (saved <= most || !Reaches(recalls, cut, target)) continue;
      best = Move{layer, to};
      most = saved;
    }
  }
  return best;
}

}  // namespace

DimChoice ChooseDims(absl::Span<const int64_t> dims, const Recalls& recalls, double recall_target,
                     int64_t budget_dim) {
  LONGSPAN_CHECK(!dims.empty() && dims[0] <= budget_dim && recalls.size() == dims.size());
  const size_t layers = recalls[0].size();
  DimChoice choice;
  std::vector<size_t>& chosen = choice.indices;
  chosen.assign(layers, 0);
  int64_t left = (budget_dim - dims[0]) * static_cast<int64_t>(layers);
  while (!Reaches(recalls, chosen, recall_target)) {
    const std::optional<Move> raise = BestRaise(dims, recalls, chosen, left);
    if (!raise) break;
    left -= dims[raise->to] - dims[chosen[raise->layer]];
    chosen[raise->layer] = raise->to;
  }
  choice.reached = Reaches(recalls, chosen, recall_target);
  while (choice.reached) {
    const std::optional<Move> cut = BestCut(dims, recalls, chosen, recall_target);
    if (!cut) break;
    chosen[cut->layer] = cut->to;
  }
  for (const size_t index : chosen) {
    choice.dims.push_back(dims[index]);
    choice.mean_dim += static_cast<double>(dims[index]) / static_cast<double>(layers);
  }
  choice.mean_recall = MeanRecall(recalls, chosen);
  return choice;
}

}  // namespace longspan
