#ifndef LONGSPAN_LAUNCHER_BENCH_SHAPE_H_
#define LONGSPAN_LAUNCHER_BENCH_SHAPE_H_

#include <cstdint>
#include <string>

#include "kernels/attention.h"
#include "kernels/base/dtype.h"
#include "runtime/config.h"
#include "runtime/kv_shard.h"
#include "runtime/model_config.h"
#include "sharding/attention_ranges.h"
#include "sharding/model_work.h"
#include "sharding/sequence_layout.h"

namespace longspan {

// Everything that the cost of a step follows from. The defaults are Llama 3 8B and the defaults of
// the config, which is what the project's targets are for.
struct BenchShape {
  int64_t heads = 32, kv_heads = 8, head_dim = 128;
  int64_t hidden = 4096, intermediate = 14336, vocab = 128256, layers = 32;
  DType weight_dtype = DType::kBFloat16;
  DType cache_dtype = DType::kBFloat16;  // of keys and values
  DType score_dtype = DType::kBFloat16;  // of score keys

  Attention attention = Attention::kEsa;
  Positions positions = Positions::kFar;
  int64_t initial_tokens = 128, local_tokens = 4096, top_k = 2048, far_position = 4096;
  int64_t score_dim = 128, proximity = 1;
  bool score_is_key = false;
  int64_t block_tokens = 512, chunk_tokens = 4096, stripe_tokens = 4096;
  bool deterministic = false;
  int ranks = 1;

  bool operator==(const BenchShape&) const = default;

  AttentionShape attention_shape() const { return {heads, kv_heads, head_dim}; }
  int64_t query_dim() const { return heads * head_dim; }
  int64_t kv_dim() const { return kv_heads * head_dim; }
  bool selects() const { return attention == Attention::kEsa && top_k > 0; }
  AttentionSizes sizes() const {
    return {initial_tokens, local_tokens, attention == Attention::kDense};
  }
  // So that the functions of model_work.h take it as it is.
  operator ModelShape() const;
  // Of one layer.
  KvShape layer_cache() const;
  // The chunk that ends a prompt of `context` tokens.
  Range last_chunk(int64_t context) const {
    return {(context - 1) / chunk_tokens * chunk_tokens, context};
  }
  // "32 layers of 4096, 32 heads, 8 of keys and values, of 128, weights bfloat16, cache bfloat16".
  std::string ToString() const;
};

// `config` is resolved, and its dtype is settled.
BenchShape MakeBenchShape(const Config& config, const ModelConfig& model, int ranks);

}  // namespace longspan

#endif  // LONGSPAN_LAUNCHER_BENCH_SHAPE_H_
