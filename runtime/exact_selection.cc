#include "runtime/exact_selection.h"

#include <algorithm>

#include "kernels/base/status_macros.h"
#include "kernels/score.h"
#include "kernels/select.h"
#include "runtime/selection.h"
#include "sharding/topk_merge.h"

namespace longspan {

absl::StatusOr<std::vector<int64_t>> SelectExactly(const AttentionContext& context, int64_t layer,
                                                   const DecodeToken& token, const float* query) {
  const Range block = {token.position, token.position + 1};
  const Range middle = RangesOfBlock(context.sizes, block).middle;
  const std::vector<float> sums = SumGroups(context.shape, query, 1);
  std::vector<float> mine(context.layout.CountOwned(token.cache->rank(), middle));
  float* next = mine.data();
  for (const Range& run : context.layout.OwnedRuns(token.cache->rank(), middle)) {
    ScoreToken(sums.data(), context.shape.kv_dim(),
               {token.cache->Key(layer, run.begin), context.kv.dtype, run.size()}, next);
    next += run.size();
  }
  std::vector<int64_t> bytes;
  for (int r = 0; r < context.layout.num_ranks; ++r) {
    bytes.push_back(context.layout.CountOwned(r, middle) * static_cast<int64_t>(sizeof(float)));
  }
  std::vector<float> gathered(middle.size());
  LONGSPAN_RETURN_IF_ERROR(
      context.communicator->AllGatherV("stats.scores", mine.data(), gathered.data(), bytes));
  std::vector<float> scores(middle.size()), spread(middle.size());
  const float* from = gathered.data();
  for (int r = 0; r < context.layout.num_ranks; ++r) {
    for (const Range& run : context.layout.OwnedRuns(r, middle)) {
      std::copy_n(from, run.size(), scores.data() + (run.begin - middle.begin));
      from += run.size();
    }
  }
  Proximity(scores.data(), middle.size(), context.esa.proximity, 0, middle.size(), spread.data());
  TopK top(context.esa.top_k);
  top.Add(spread.data(), middle.size(), middle.begin);
  std::vector<Candidate> candidates(context.esa.top_k);
  top.Take(candidates.data());
  return MergeTopK(absl::MakeSpan(candidates), context.esa.top_k);
}

}  // namespace longspan
