#include "launcher/bench_shape.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "runtime/model.h"

namespace longspan {
namespace {

double Bytes(int64_t numbers, DType dtype) {
  return static_cast<double>(numbers) * static_cast<double>(SizeOf(dtype));
}

// Keys that come before the near ones.
int64_t FarKeys(const BenchShape& shape, const AttentionRanges& ranges) {
  const int64_t selected = shape.selects() ? std::min(shape.top_k, ranges.middle.size()) : 0;
  return ranges.initial.size() + selected;
}

// Of a layer, without attention.
Work LayerLinearWork(const BenchShape& shape, int64_t rows) {
  const int64_t stacked = shape.query_dim() + 2 * shape.kv_dim();
  return LinearWork(shape, rows, shape.hidden, stacked) +
         LinearWork(shape, rows, shape.query_dim(), shape.hidden) +
         LinearWork(shape, rows, shape.hidden, 2 * shape.intermediate) +
         LinearWork(shape, rows, shape.intermediate, shape.hidden);
}

// Rows of a chunk that one rank computes.
int64_t OwnRows(const BenchShape& shape, Range chunk) {
  return (chunk.size() + shape.ranks - 1) / shape.ranks;
}

// A rank keeps its share of the keys, and has its share of the blocks.
Work Shared(const BenchShape& shape, const Work& all) { return all * (1.0 / shape.ranks); }

}  // namespace

KvShape BenchShape::layer_cache() const {
  KvShape kv;
  kv.layers = 1;
  kv.kv_dim = kv_dim();
  kv.stripe_tokens = stripe_tokens;
  kv.dtype = cache_dtype;
  kv.score_dtype = score_dtype;
  if (selects()) {
    kv.score_is_key = score_is_key;
    kv.score_dim = score_dim;
    kv.halo = proximity;
  }
  return kv;
}

std::string BenchShape::ToString() const {
  return absl::StrCat(layers, layers == 1 ? " layer of " : " layers of ", hidden, ", ", heads,
                      " heads, ", kv_heads, " of keys and values, of ", head_dim, ", weights ",
                      std::string(DTypeName(weight_dtype)), ", cache ",
                      std::string(DTypeName(cache_dtype)), ", score keys ",
                      std::string(DTypeName(score_dtype)));
}

BenchShape MakeBenchShape(const Config& config, const ModelConfig& model, int ranks) {
  const KvShape kv = MakeKvShape(config, model);
  BenchShape shape;
  shape.heads = model.num_heads;
  shape.kv_heads = model.num_kv_heads;
  shape.head_dim = model.head_dim;
  shape.hidden = model.hidden_size;
  shape.intermediate = model.intermediate_size;
  shape.vocab = model.vocab_size;
  shape.layers = model.num_layers;
  // The CPU reads weights as they are, a GPU in what it computes in.
  const DType computed = config.dtype == "bfloat16" ? DType::kBFloat16 : DType::kFloat32;
  shape.weight_dtype = config.device == "cuda" ? computed : model.dtype;
  shape.cache_dtype = kv.dtype;
  shape.score_dtype = kv.score_dtype;
  shape.attention = config.attention;
  shape.positions = config.esa.positions;
  shape.initial_tokens = config.esa.initial_tokens;
  shape.local_tokens = config.esa.local_tokens;
  shape.top_k = config.esa.top_k;
  shape.far_position = config.esa.far_position;
  shape.score_dim = kv.score_dim;
  shape.score_is_key = kv.score_is_key;
  shape.proximity = config.esa.proximity;
  shape.block_tokens = config.esa.selection_block;
  shape.chunk_tokens = config.prefill_chunk_tokens;
  shape.stripe_tokens = config.parallel.stripe_tokens;
  shape.deterministic = config.deterministic;
  shape.ranks = ranks;
  return shape;
}

Work LinearWork(const BenchShape& shape, int64_t rows, int64_t in, int64_t out) {
  return {Bytes(in * out + rows * (in + out), shape.weight_dtype),
          2.0 * static_cast<double>(rows) * static_cast<double>(in * out)};
}

int64_t AttendedKeys(const BenchShape& shape, int64_t context) {
  return ListedKeys(shape, {context - 1, context});
}

int64_t ListedKeys(const BenchShape& shape, Range block) {
  const AttentionRanges ranges = RangesOfBlock(shape.sizes(), block);
  return FarKeys(shape, ranges) + ranges.near.size();
}

Work DecodeScoreWork(const BenchShape& shape, int64_t context, int64_t batch) {
  if (!shape.selects()) return {};
  const int64_t numbers =
      RangesOfBlock(shape.sizes(), {context - 1, context}).middle.size() * shape.score_dim * batch;
  return Shared(shape, {Bytes(numbers, shape.score_dtype), 2.0 * static_cast<double>(numbers)});
}

Work DecodeAttendWork(const BenchShape& shape, int64_t context, int64_t batch) {
  const int64_t keys = AttendedKeys(shape, context) * batch;
  return Shared(shape, {Bytes(2 * keys * shape.kv_dim(), shape.cache_dtype),
                        4.0 * static_cast<double>(keys * shape.query_dim())});
}

Work DecodeLayerWork(const BenchShape& shape, int64_t context, int64_t batch) {
  return LayerLinearWork(shape, batch) + DecodeScoreWork(shape, context, batch) +
         DecodeAttendWork(shape, context, batch);
}

Work PrefillScoreWork(const BenchShape& shape, Range chunk) {
  Work work;
  if (!shape.selects()) return work;
  int64_t scored = 0;  // of the block with most: the others' are among them
  for (const Range& block : SelectionBlocks(chunk, shape.block_tokens)) {
    const int64_t middle = RangesOfBlock(shape.sizes(), block).middle.size();
    scored = std::max(scored, middle);
    work.flops +=
        2.0 * static_cast<double>(block.size()) * static_cast<double>(middle * shape.score_dim);
  }
  work.bytes = Bytes(scored * shape.score_dim, shape.score_dtype);
  return Shared(shape, work);
}

Work PrefillAttendWork(const BenchShape& shape, Range chunk) {
  Work work;
  for (const Range& block : SelectionBlocks(chunk, shape.block_tokens)) {
    const int64_t listed = ListedKeys(shape, block);
    // Of the block itself a query sees what is before it.
    const double seen = static_cast<double>(listed) - static_cast<double>(block.size() - 1) / 2;
    work.flops +=
        4.0 * static_cast<double>(block.size()) * seen * static_cast<double>(shape.query_dim());
    work.bytes += Bytes(2 * listed * shape.kv_dim(), shape.cache_dtype);
  }
  return Shared(shape, work);
}

Work PrefillLayerWork(const BenchShape& shape, Range chunk) {
  return LayerLinearWork(shape, OwnRows(shape, chunk)) + PrefillScoreWork(shape, chunk) * 2 +
         PrefillAttendWork(shape, chunk);
}

Work DecodeWork(const BenchShape& shape, int64_t context, int64_t batch) {
  return DecodeLayerWork(shape, context, batch) * static_cast<double>(shape.layers) +
         LinearWork(shape, batch, shape.hidden, shape.vocab);
}

Work PromptWork(const BenchShape& shape, int64_t tokens) {
  Work work = LinearWork(shape, 1, shape.hidden, shape.vocab);
  for (int64_t begin = 0; begin < tokens; begin += shape.chunk_tokens) {
    const Range chunk = {begin, std::min(tokens, begin + shape.chunk_tokens)};
    // Of the last layer only keys and values are computed, but for the last block.
    work = work + PrefillLayerWork(shape, chunk) * static_cast<double>(shape.layers - 1) +
           LinearWork(shape, OwnRows(shape, chunk), shape.hidden, 2 * shape.kv_dim());
  }
  return work;
}

}  // namespace longspan
