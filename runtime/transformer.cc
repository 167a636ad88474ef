#include "runtime/transformer.h"

#include <algorithm>

#include "kernels/base/status_macros.h"
#include "runtime/sampling.h"

namespace longspan {

PrefillChunk PlanChunk(const AttentionContext& context, int64_t selection_block, KvShard* cache,
                       Range tokens, int64_t capacity) {
  PrefillChunk chunk;
  chunk.cache = cache;
  chunk.tokens = tokens;
  chunk.capacity = capacity;
  const int64_t panel = std::max<int64_t>(1, context.panel_rows);
  for (const Range& range : SelectionBlocks(tokens, selection_block)) {
    PrefillBlock& block = chunk.blocks.emplace_back();
    block.tokens = range;
    block.rank = context.layout.owner(range.begin);
    block.ranges = RangesOfBlock(context.sizes, range);
    if (block.rank != context.communicator->rank()) continue;
    block.row = chunk.rows;
    chunk.rows += (range.size() + panel - 1) / panel * panel;
  }
  return chunk;
}

absl::StatusOr<std::vector<int32_t>> Transformer::LikeliestTokens(int64_t first, int64_t count) {
  LONGSPAN_ASSIGN_OR_RETURN(const std::vector<float> logits, Logits(first, count));
  std::vector<int32_t> tokens;
  for (int64_t row = 0; row < count; ++row) {
    const auto vocab = static_cast<int64_t>(logits.size()) / count;
    tokens.push_back(LikeliestToken(absl::MakeConstSpan(logits).subspan(row * vocab, vocab)));
  }
  return tokens;
}

absl::Status Transformer::Prefill(const PrefillChunk& chunk, absl::Span<const int32_t> tokens,
                                  Outputs outputs) {
  LONGSPAN_RETURN_IF_ERROR(EmbedChunk(chunk, tokens));
  for (int64_t layer = 0; layer < num_layers_; ++layer) {
    // Nobody reads the last layer's output but where a token is to be predicted.
    const bool last = layer + 1 == num_layers_;
    LONGSPAN_RETURN_IF_ERROR(PrefillLayer(layer, chunk, last ? outputs : Outputs::kAll));
  }
  return Finish();
}

}  // namespace longspan
