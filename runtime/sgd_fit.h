#ifndef LONGSPAN_RUNTIME_SGD_FIT_H_
#define LONGSPAN_RUNTIME_SGD_FIT_H_

#include <cstdint>
#include <functional>
#include <vector>

namespace longspan {

// The fit of the ESA paper (arXiv 2502.14477): maps of queries and keys to fewer dimensions that
// gradient descent makes reproduce the dot products. From the paper are the defaults below, and the
// 50,000 tokens; ours are Adam (Kingma and Ba, ICLR 2015), its usual constants and a constant rate;
// that a batch is so many tokens, whose queries meet all of its keys; the mean squared error,
// without weights; uniform initial weights; and rows scaled before, so that dot products are about
// 1, which is undone in the maps.
struct SgdOptions {
  double learning_rate = 5e-4;
  int64_t batch = 128;  // tokens; the last of an epoch are left out where they are fewer
  int64_t epochs = 10;
  uint64_t seed = 0;  // of the initial weights and the order of tokens

  bool operator==(const SgdOptions&) const = default;
};
inline constexpr int64_t kSgdTokens = 50'000;  // of the text, at most

// Of a query or key row x: second^T x, or second^T silu(first^T x + bias) where hidden is not 0.
struct RowMap {
  int64_t width = 0;
  int64_t hidden = 0;
  int64_t dim = 0;
  std::vector<float> first;   // [width, hidden]
  std::vector<float> bias;    // [hidden]
  std::vector<float> second;  // [hidden, dim], or [width, dim] of a linear map
};

// rows: [count, map.width]; returns [count, map.dim].
std::vector<float> Apply(const RowMap& map, const float* rows, int64_t count);

struct ScoreMaps {
  RowMap query, key;
};

// Of the mean, over all queries and all keys of a batch, of the squared difference between the
// maps' dot product and the exact one, as maps of the same shape. queries, keys: [batch, width].
ScoreMaps GradientOfLoss(const ScoreMaps& maps, const std::vector<float>& queries,
                         const std::vector<float>& keys, int64_t batch);

// queries, keys: [rows, width], at least one row, the group-summed queries and the concatenated
// keys. hidden: 0 for linear maps. The result depends on the arguments alone. `progress` is told
// the share that is done; it may be empty.
ScoreMaps FitBySgd(const float* queries, const float* keys, int64_t rows, int64_t width,
                   int64_t hidden, int64_t dim, const SgdOptions& options,
                   const std::function<void(double share)>& progress);

}  // namespace longspan

#endif  // LONGSPAN_RUNTIME_SGD_FIT_H_
