#include "runtime/exact_selection.h"

#include <algorithm>

#include "kernels/base/status_macros.h"
#include "kernels/representatives.h"
#include "kernels/score.h"
#include "kernels/select.h"
#include "runtime/selection.h"
#include "sharding/topk_merge.h"
#include "sharding/units.h"

namespace longspan {

namespace {

// Of what this rank keeps of the middle, in order, a score for each token or unit.
std::vector<float> ScoreMine(const AttentionContext& context, int64_t layer, KvShard* cache,
                             const float* sums, Range middle) {
  const int64_t dim = context.shape.kv_dim();
  const int64_t unit_tokens = context.esa.unit_tokens;
  std::vector<float> scores, means;
  for (const Range& run : context.layout.OwnedRuns(cache->rank(), middle)) {
    ScoreKeys keys = {cache->Key(layer, run.begin), context.kv.dtype, run.size()};
    if (unit_tokens > 1) {
      const Range units = UnitsOf(run, unit_tokens);
      means.resize(units.size() * dim);
      for (int64_t u = units.begin; u < units.end; ++u) {
        const Range tokens = TokensOfUnit(u, unit_tokens, run);
        MeanRepresentative({cache->Key(layer, tokens.begin), context.kv.dtype, tokens.size()}, dim,
                           context.esa.unit_representatives,
                           means.data() + (u - units.begin) * dim);
      }
      keys = {means.data(), DType::kFloat32, units.size()};
    }
    scores.resize(scores.size() + keys.count);
    ScoreToken(sums, dim, keys, scores.data() + (static_cast<int64_t>(scores.size()) - keys.count));
  }
  return scores;
}

// Those of all ranks, in order.
absl::StatusOr<std::vector<float>> GatherScores(Communicator* communicator,
                                                const SequenceLayout& layout, Range range,
                                                const std::vector<float>& mine) {
  std::vector<int64_t> bytes;
  for (int r = 0; r < layout.num_ranks; ++r) {
    bytes.push_back(layout.CountOwned(r, range) * static_cast<int64_t>(sizeof(float)));
  }
  std::vector<float> gathered(range.size()), scores(range.size());
  LONGSPAN_RETURN_IF_ERROR(
      communicator->AllGatherV("stats.scores", mine.data(), gathered.data(), bytes));
  const float* from = gathered.data();
  for (int r = 0; r < layout.num_ranks; ++r) {
    for (const Range& run : layout.OwnedRuns(r, range)) {
      std::copy_n(from, run.size(), scores.data() + (run.begin - range.begin));
      from += run.size();
    }
  }
  return scores;
}

}  // namespace

absl::StatusOr<std::vector<int64_t>> SelectExactly(const AttentionContext& context, int64_t layer,
                                                   const DecodeToken& token, const float* query) {
  const int64_t unit_tokens = context.esa.unit_tokens;
  const Range middle = RangesOfBlock(context.sizes, {token.position, token.position + 1}).middle;
  const std::vector<float> sums = SumGroups(context.shape, AtTarget(context, query, 1).data(), 1);
  const std::vector<float> mine = ScoreMine(context, layer, token.cache, sums.data(), middle);
  const Range units = UnitsOf(middle, unit_tokens);
  LONGSPAN_ASSIGN_OR_RETURN(
      const std::vector<float> scores,
      GatherScores(context.communicator, LayoutOfUnits(context.layout, unit_tokens), units, mine));
  std::vector<float> spread(units.size());
  Proximity(scores.data(), units.size(), unit_tokens > 1 ? 0 : context.esa.proximity, 0,
            units.size(), spread.data());
  const int64_t picks = context.esa.picks();
  TopK top(picks);
  top.Add(spread.data(), units.size(), units.begin);
  std::vector<Candidate> candidates(picks);
  top.Take(candidates.data());
  return TokensOf(context, MergeTopK(absl::MakeSpan(candidates), picks), middle);
}

}  // namespace longspan
