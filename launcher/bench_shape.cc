#include "launcher/bench_shape.h"

#include "absl/strings/str_cat.h"
#include "runtime/job_shape.h"
#include "runtime/model.h"

namespace longspan {
BenchShape::operator ModelShape() const {
  ModelShape model;
  model.layers = layers;
  model.hidden = hidden;
  model.intermediate = intermediate;
  model.vocab = vocab;
  model.heads = heads;
  model.kv_heads = kv_heads;
  model.head_dim = head_dim;
  model.weight_bytes = SizeOf(weight_dtype);
  model.cache_bytes = SizeOf(cache_dtype);
  model.score_bytes = SizeOf(score_dtype);
  model.sizes = sizes();
  model.top_k = selects() ? top_k : 0;
  model.score_dim = score_dim;
  model.block_tokens = block_tokens;
  model.chunk_tokens = chunk_tokens;
  model.ranks = ranks;
  return model;
}

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
  shape.weight_dtype = WeightDType(config, model);
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

}  // namespace longspan
