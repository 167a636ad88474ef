#ifndef LONGSPAN_SHARDING_MODEL_WORK_H_
#define LONGSPAN_SHARDING_MODEL_WORK_H_

#include <cstdint>

#include "sharding/attention_ranges.h"
#include "sharding/sequence_layout.h"

namespace longspan {

// What the work of a model on some ranks follows from, in plain numbers.
struct ModelShape {
  int64_t layers = 0, hidden = 0, intermediate = 0, vocab = 0;
  int64_t heads = 0, kv_heads = 0, head_dim = 0;
  // Bytes of one number.
  int64_t weight_bytes = 2, cache_bytes = 2, score_bytes = 2;

  AttentionSizes sizes;
  int64_t top_k = 0;            // 0: nothing is selected
  int64_t score_dim = 0;        // numbers of a key that the score reads
  int64_t score_query_dim = 0;  // of a query, where it is more: heads that share a key are apart
  int64_t block_tokens = 1, chunk_tokens = 1;
  int ranks = 1;

  int64_t query_dim() const { return heads * head_dim; }
  int64_t kv_dim() const { return kv_heads * head_dim; }
};

// What one rank must at least read and write, and its multiplications and additions.
struct Work {
  double bytes = 0;
  double flops = 0;

  Work operator+(const Work& other) const { return {bytes + other.bytes, flops + other.flops}; }
  Work operator*(double times) const { return {bytes * times, flops * times}; }
};

// A product of [rows, in] with a weight [out, in], all counted in the weight's dtype.
Work LinearWork(const ModelShape& shape, int64_t rows, int64_t in, int64_t out);
// The products of a layer: all, those of keys and values alone, and the others.
Work LayerLinearWork(const ModelShape& shape, int64_t rows);
Work KeyValueWork(const ModelShape& shape, int64_t rows);
Work OtherLinearWork(const ModelShape& shape, int64_t rows);
// The products behind the last layer.
Work LogitsWork(const ModelShape& shape, int64_t rows);

// One pass of `queries` over the score keys of `keys` tokens.
Work ScoreWork(const ModelShape& shape, int64_t keys, int64_t queries);
// Attention that reads `keys` keys and values; each of `pairs` is one query with one key.
Work AttendWork(const ModelShape& shape, double keys, double pairs);

// One layer of the newest token of each of `batch` sequences of `context` tokens: its scores, what
// it attends to, and both with the linear layers. Of one rank, with its share of the keys.
Work DecodeScoreWork(const ModelShape& shape, int64_t context, int64_t batch);
Work DecodeAttendWork(const ModelShape& shape, int64_t context, int64_t batch);
Work DecodeLayerWork(const ModelShape& shape, int64_t context, int64_t batch);

// One layer of the prompt tokens `chunk`: one of the two passes of scoring, what the blocks attend
// to, and all of the layer. Of one rank, with its share of the blocks.
Work PrefillScoreWork(const ModelShape& shape, Range chunk);
Work PrefillAttendWork(const ModelShape& shape, Range chunk);
Work PrefillLayerWork(const ModelShape& shape, Range chunk);

// The whole model.
Work DecodeWork(const ModelShape& shape, int64_t context, int64_t batch);
Work PromptWork(const ModelShape& shape, int64_t tokens);

// Keys that a block of a prompt attends to, and those that a decoded token does.
int64_t ListedKeys(const ModelShape& shape, Range block);
int64_t AttendedKeys(const ModelShape& shape, int64_t context);
// (query, key) pairs of a block of `queries` that lists so many keys, itself the last of them.
double CausalPairs(int64_t queries, int64_t listed);

}  // namespace longspan

#endif  // LONGSPAN_SHARDING_MODEL_WORK_H_
