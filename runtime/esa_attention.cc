#include "runtime/esa_attention.h"

#include <vector>

#include "kernels/base/status_macros.h"
#include "runtime/layer_collectives.h"
#include "runtime/partial_attention.h"
#include "runtime/ring_attention.h"
#include "runtime/selection.h"

namespace longspan {
namespace {

// Counts what a block reads, and tells the observer.
void Record(const AttentionContext& context, int64_t layer, Range block, const BlockKeys& keys,
            const std::vector<int64_t>& selected) {
  for (int64_t p = block.begin; p < block.end; ++p) {
    context.counts->attended += static_cast<int64_t>(keys.far.size()) + p + 1 - keys.near.begin;
    context.counts->dense += p + 1;
  }
  if (context.on_selection) context.on_selection(layer, block, selected);
}

}  // namespace

absl::Status AttendBlocks(const AttentionContext& context, int64_t layer, KvShard* cache,
                          absl::Span<const PrefillBlock> blocks, int64_t first_row,
                          const float* queries, float* output) {
  const PhaseSpan span(context.phases, Phase::kAttend);
  LONGSPAN_ASSIGN_OR_RETURN(const Selections selections,
                            SelectForBlocks(context, layer, cache, blocks, first_row, queries));
  std::vector<BlockKeys> keys;
  for (size_t b = 0; b < blocks.size(); ++b) {
    keys.push_back(ReadsOf(blocks[b].tokens, blocks[b].rank, blocks[b].ranges, selections[b]));
    Record(context, layer, blocks[b].tokens, keys[b], selections[b]);
  }
  return ChooseMoving(LayerShapeOf(context), keys) == Moving::kKeys
             ? AttendBlocksInRing(context, layer, cache, blocks, keys, first_row, queries, output)
             : AttendBlocksByPartials(context, layer, cache, blocks, keys, queries, output);
}

absl::Status AttendTokens(const AttentionContext& context, int64_t layer,
                          absl::Span<const DecodeToken> tokens, const float* queries,
                          float* output) {
  const PhaseSpan span(context.phases, Phase::kAttend);
  LONGSPAN_ASSIGN_OR_RETURN(const Selections selections,
                            SelectForTokens(context, layer, tokens, queries));
  std::vector<BlockKeys> keys;
  for (size_t t = 0; t < tokens.size(); ++t) {
    const Range block = {tokens[t].position, tokens[t].position + 1};
    keys.push_back(ReadsOf(block, /*rank=*/0, RangesOfBlock(context.sizes, block), selections[t]));
    Record(context, layer, block, keys[t], selections[t]);
  }
  if (!context.deterministic) {
    return AttendTokensByPartials(context, layer, tokens, keys, queries, output);
  }
  const int64_t dim = context.shape.query_dim();
  for (size_t t = 0; t < tokens.size(); ++t) {
    LONGSPAN_RETURN_IF_ERROR(AttendTokenEverywhere(context, layer, tokens[t], keys[t],
                                                   queries + t * dim, output + t * dim));
  }
  return absl::OkStatus();
}

}  // namespace longspan
