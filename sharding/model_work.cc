#include "sharding/model_work.h"

#include <algorithm>

namespace longspan {
namespace {

double Product(int64_t a, int64_t b) { return static_cast<double>(a) * static_cast<double>(b); }

// Rows of a chunk that one rank computes.
int64_t OwnRows(const ModelShape& shape, Range chunk) {
  return (chunk.size() + shape.ranks - 1) / shape.ranks;
}

// A rank keeps its share of the keys, and has its share of the blocks.
Work Shared(const ModelShape& shape, const Work& all) { return all * (1.0 / shape.ranks); }

}  // namespace

Work LinearWork(const ModelShape& shape, int64_t rows, int64_t in, int64_t out) {
  return {Product(in * out + rows * (in + out), shape.weight_bytes), 2 * Product(rows, in * out)};
}

Work KeyValueWork(const ModelShape& shape, int64_t rows) {
  return LinearWork(shape, rows, shape.hidden, 2 * shape.kv_dim());
}

Work OtherLinearWork(const ModelShape& shape, int64_t rows) {
  return LayerLinearWork(shape, rows) + KeyValueWork(shape, rows) * -1;
}

Work LayerLinearWork(const ModelShape& shape, int64_t rows) {
  return LinearWork(shape, rows, shape.hidden, shape.query_dim() + 2 * shape.kv_dim()) +
         LinearWork(shape, rows, shape.query_dim(), shape.hidden) +
         LinearWork(shape, rows, shape.hidden, 2 * shape.intermediate) +
         LinearWork(shape, rows, shape.intermediate, shape.hidden);
}

Work LogitsWork(const ModelShape& shape, int64_t rows) {
  return LinearWork(shape, rows, shape.hidden, shape.vocab);
}

Work ScoreWork(const ModelShape& shape, int64_t keys, int64_t queries) {
  const int64_t products = std::max(shape.score_dim, shape.score_query_dim);
  return {Product(keys * shape.score_dim, shape.score_bytes),
          2 * Product(keys * products, queries)};
}

Work AttendWork(const ModelShape& shape, double keys, double pairs) {
  return {2 * keys * Product(shape.kv_dim(), shape.cache_bytes),
          4 * pairs * static_cast<double>(shape.query_dim())};
}

double CausalPairs(int64_t queries, int64_t listed) {
  // Of the block itself a query sees what is before it.
  return static_cast<double>(queries) *
         (static_cast<double>(listed) - static_cast<double>(queries - 1) / 2);
}

int64_t ListedKeys(const ModelShape& shape, Range block) {
  const AttentionRanges ranges = RangesOfBlock(shape.sizes, block);
  return ranges.initial.size() + std::min(shape.top_k, ranges.middle.size()) + ranges.near.size();
}

int64_t AttendedKeys(const ModelShape& shape, int64_t context) {
  return ListedKeys(shape, {context - 1, context});
}

Work DecodeScoreWork(const ModelShape& shape, int64_t context, int64_t batch) {
  if (shape.top_k == 0) return {};
  const Range middle = RangesOfBlock(shape.sizes, {context - 1, context}).middle;
  return Shared(shape, ScoreWork(shape, middle.size() * batch, 1));
}

Work DecodeAttendWork(const ModelShape& shape, int64_t context, int64_t batch) {
  const auto keys = static_cast<double>(AttendedKeys(shape, context) * batch);
  return Shared(shape, AttendWork(shape, keys, keys));
}

Work DecodeLayerWork(const ModelShape& shape, int64_t context, int64_t batch) {
  return LayerLinearWork(shape, batch) + DecodeScoreWork(shape, context, batch) +
         DecodeAttendWork(shape, context, batch);
}

Work PrefillScoreWork(const ModelShape& shape, Range chunk) {
  Work work;
  if (shape.top_k == 0) return work;
  for (const Range& block : SelectionBlocks(chunk, shape.block_tokens)) {
    const Range middle = RangesOfBlock(shape.sizes, block).middle;
    const Work scored = ScoreWork(shape, middle.size(), block.size());
    work.flops += scored.flops;
    work.bytes = std::max(work.bytes, scored.bytes);  // the others' keys are among them
  }
  return Shared(shape, work);
}

Work PrefillAttendWork(const ModelShape& shape, Range chunk) {
  Work work;
  for (const Range& block : SelectionBlocks(chunk, shape.block_tokens)) {
    const int64_t listed = ListedKeys(shape, block);
    work = work + AttendWork(shape, static_cast<double>(listed), CausalPairs(block.size(), listed));
  }
  return Shared(shape, work);
}

Work PrefillLayerWork(const ModelShape& shape, Range chunk) {
  return LayerLinearWork(shape, OwnRows(shape, chunk)) + PrefillScoreWork(shape, chunk) * 2 +
         PrefillAttendWork(shape, chunk);
}

Work DecodeWork(const ModelShape& shape, int64_t context, int64_t batch) {
  return DecodeLayerWork(shape, context, batch) * static_cast<double>(shape.layers) +
         LogitsWork(shape, batch);
}

Work PromptWork(const ModelShape& shape, int64_t tokens) {
  Work work = LogitsWork(shape, 1);
  for (int64_t begin = 0; begin < tokens; begin += shape.chunk_tokens) {
    const Range chunk = {begin, std::min(tokens, begin + shape.chunk_tokens)};
    // Of the last layer only keys and values are computed, but for the last block.
    work = work + PrefillLayerWork(shape, chunk) * static_cast<double>(shape.layers - 1) +
           KeyValueWork(shape, OwnRows(shape, chunk));
  }
  return work;
}

}  // namespace longspan
