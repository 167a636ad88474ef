#include "runtime/unit_source.h"

#include <map>
#include <memory>
#include <vector>

#include "kernels/representatives.h"
#include "sharding/units.h"

namespace longspan {
namespace {

// Keys of the units of one stripe, from unit `first` on: [units, score_dim].
struct UnitKeys {
  int64_t first = 0;
  std::vector<float> keys;
};

UnitKeys MakeUnitKeys(const AttentionContext& context, int64_t layer, KvShard* cache, Range run) {
  const int64_t dim = context.kv.score_dim;
  const Range units = UnitsOf(run, context.esa.unit_tokens);
  UnitKeys made = {units.begin, std::vector<float>(units.size() * dim)};
  for (int64_t u = units.begin; u < units.end; ++u) {
    const Range tokens = TokensOfUnit(u, context.esa.unit_tokens, run);
    const std::byte* keys = cache->ScoreKey(layer, context.layout.page(tokens.begin), tokens.begin);
    MeanRepresentative({keys, context.kv.score_dtype, tokens.size()}, dim,
                       context.esa.unit_representatives,
                       made.keys.data() + (u - units.begin) * dim);
  }
  return made;
}

}  // namespace

ScoreSource UnitSource(const AttentionContext& context, int64_t layer, KvShard* cache,
                       Range middle) {
  const SequenceLayout layout = LayoutOfUnits(context.layout, context.esa.unit_tokens);
  auto of_stripe = std::make_shared<std::map<int64_t, UnitKeys>>();
  for (const Range& run : context.layout.OwnedRuns(cache->rank(), middle)) {
    of_stripe->emplace(context.layout.stripe(run.begin), MakeUnitKeys(context, layer, cache, run));
  }
  const auto keys = [layout, of_stripe, dim = context.kv.score_dim](Range run,
                                                                    Range range) -> ScoreKeys {
    const UnitKeys& units = of_stripe->at(layout.stripe(run.begin));
    return {units.keys.data() + (range.begin - units.first) * dim, DType::kFloat32, range.size()};
  };
  return {layout, cache->rank(), context.esa.picks(), /*proximity=*/0, keys};
}

}  // namespace longspan
