#include "runtime/block_in_flight.h"

#include <vector>

#include "kernels/base/convert.h"

namespace longspan {
namespace {

// Far keys stay unrotated, and meet queries rotated to one distance; otherwise every key is rotated
// to its true position and counts as near.
bool FarIsApart(const AttentionContext& context) {
  return context.esa.positions == Positions::kFar;
}

}  // namespace

BlockInFlight::BlockInFlight(const AttentionContext& context, const BlockKeys& keys, Range tokens,
                             const float* queries)
    : context_(context),
      keys_(keys),
      attention_(context.shape),
      near_(context.shape),
      far_(context.shape) {
  const int64_t dim = context.shape.query_dim();
  const bool has_far = FarIsApart(context) && !keys.far.empty();
  std::vector<float> near(tokens.size() * dim), far(has_far ? near.size() : 0);
  for (int64_t i = 0; i < tokens.size(); ++i) {
    const float* query = queries + i * dim;
    context.rope->Rotate(query, context.shape.heads, tokens.begin + i, near.data() + i * dim);
    if (!has_far) continue;
    context.rope->Rotate(query, context.shape.heads, context.esa.far_position,
                         far.data() + i * dim);
  }
  attention_.Reset(near.data(), has_far ? far.data() : nullptr, tokens.size(), tokens.begin);
}

void BlockInFlight::Append(const std::byte* key, const std::byte* value, int64_t position,
                           bool far) {
  const AttentionShape& shape = context_.shape;
  const DType dtype = context_.kv.dtype;
  far = far && FarIsApart(context_);
  KeyTile& tile = far ? far_ : near_;
  for (int64_t g = 0; g < shape.kv_heads; ++g) {
    const int64_t row = (g * kAttentionTile + tile.count) * shape.head_dim;
    const int64_t head = g * shape.head_dim * SizeOf(dtype);
    ConvertToFloat(key + head, dtype, shape.head_dim, tile.keys.data() + row);
    ConvertToFloat(value + head, dtype, shape.head_dim, tile.values.data() + row);
    if (!far) context_.rope->Rotate(tile.keys.data() + row, 1, position, tile.keys.data() + row);
  }
  tile.positions[tile.count++] = position;
  if (tile.count < kAttentionTile) return;
  far ? attention_.AttendFar(tile) : attention_.AttendNear(tile);
  tile.count = 0;
}

void BlockInFlight::Finish(float* output, float* lse) {
  attention_.AttendFar(far_);
  attention_.AttendNear(near_);
  attention_.Finish(output, lse);
}

}  // namespace longspan
