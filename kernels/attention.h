#ifndef LONGSPAN_KERNELS_ATTENTION_H_
#define LONGSPAN_KERNELS_ATTENTION_H_

#include <cstdint>
#include <vector>

namespace longspan {

struct AttentionShape {
  int64_t heads = 0;
  int64_t kv_heads = 0;
  int64_t head_dim = 0;
  double score_scale = 1;  // of scores, beside 1/sqrt(head_dim)

  int64_t group() const { return heads / kv_heads; }
  int64_t kv_dim() const { return kv_heads * head_dim; }
  int64_t query_dim() const { return heads * head_dim; }
};

// Keys of one tile: attention proceeds a tile at a time.
inline constexpr int64_t kAttentionTile = 64;

// A tile of keys and values in float32, already rotated where they are to be.
struct KeyTile {
  explicit KeyTile(const AttentionShape& shape)
      : keys(kAttentionTile * shape.kv_dim()), values(kAttentionTile * shape.kv_dim()) {}

  int64_t count = 0;
  std::vector<float> keys;    // [kv_heads, kAttentionTile, head_dim]
  std::vector<float> values;  // [kv_heads, kAttentionTile, head_dim]
  int64_t positions[kAttentionTile] = {};
};

// Softmax attention of one block of queries, accumulated tile by tile (online softmax, arXiv
// 1805.02867). Scores are scaled by score_scale/sqrt(head_dim). The result depends on the order of
// the keys and on where tiles begin only within rounding; equal sequences of tiles give equal bits.
class BlockAttention {
 public:
  explicit BlockAttention(const AttentionShape& shape) : shape_(shape) {}

  // Begins a block of `count` queries at positions first_position, ...; rows are [heads, head_dim].
  // `near` holds the queries rotated to their positions, `far` rotated to the far position (may be
  // null if no far tile follows).
  void Reset(const float* near, const float* far, int64_t count, int64_t first_position);
  // Attends to a tile with the near queries. Keys behind a query's position are masked.
  void AttendNear(const KeyTile& tile) { Attend(near_, &tile, true); }
  // Attends to a tile with the far queries, unmasked.
  void AttendFar(const KeyTile& tile) { Attend(far_, &tile, false); }
  // output: [count, heads, head_dim]; lse (may be null): [count, heads], natural log. A query that
  // attended to nothing gets 0 and -inf.
  void Finish(float* output, float* lse) const;

 private:
  void Pack(const float* rows, std::vector<float>* panels) const;
  void Attend(const std::vector<float>& queries, const KeyTile* tile, bool causal);

  AttentionShape shape_;
  int64_t count_ = 0;
  int64_t first_position_ = 0;
  int64_t lanes_ = 0;   // of one panel: kPanelLanes, or one vector where the block is that small
  int64_t panels_ = 0;  // of one KV head: its group's queries, head by head
  std::vector<float> near_, far_;  // [kv_heads, panels, head_dim, lanes]
  std::vector<float> output_;      // [kv_heads, panels, head_dim, lanes], not yet normalised
  std::vector<float> max_, sum_;   // [kv_heads, panels, lanes]
};

// Merges partial attentions of disjoint key sets (FlashAttention, arXiv 2205.14135): the outputs
// weighted by exp(lse - lse of all). Empty partials (-inf) add nothing.
struct MergePartialsArgs {
  const float* outputs = nullptr;  // [parts, rows, head_dim], parts `part_stride` floats apart
  const float* lse = nullptr;      // [parts, rows], parts `part_stride` floats apart
  int64_t part_stride = 0;
  int64_t parts = 0;
  int64_t rows = 0;  // queries times heads
  int64_t head_dim = 0;
  float* output = nullptr;  // [rows, head_dim]
};
void MergePartials(const MergePartialsArgs& args);

}  // namespace longspan

#endif  // LONGSPAN_KERNELS_ATTENTION_H_
