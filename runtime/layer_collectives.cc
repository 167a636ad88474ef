#include "runtime/layer_collectives.h"

#include "kernels/base/check.h"
#include "kernels/base/lane_gemm.h"
#include "kernels/score.h"

namespace longspan {
namespace {

constexpr auto kFloat = static_cast<int64_t>(sizeof(float));

int64_t BytesOf(const std::vector<float>& floats) {
  return static_cast<int64_t>(floats.size()) * kFloat;
}

}  // namespace

LayerShape LayerShapeOf(const AttentionContext& context) {
  const int64_t query = context.shape.query_dim() * kFloat;
  LayerShape shape;
  shape.layout = context.layout;
  shape.sizes = context.sizes;
  shape.top_k = context.selects ? context.esa.top_k : 0;
  shape.halo = context.kv.halo;
  shape.score_row_bytes = context.kv.score_row_bytes();
  shape.query_row_bytes = context.kv.score_dim * kFloat;
  shape.token = {.key_value = 2 * context.kv.row_bytes(),
                 .query = query,
                 .partial = query + context.shape.heads * kFloat};
  shape.limits = context.limits;
  shape.panel_lanes = kPanelLanes;
  shape.min_tile_keys = kMinTileKeys;
  shape.deterministic = context.deterministic;
  shape.moving = context.moving;
  return shape;
}

absl::Status AllGather(Communicator* communicator, const Collective& gather,
                       const std::vector<float>& mine, std::vector<float>* all) {
  LONGSPAN_CHECK(gather.bytes[communicator->rank()] == BytesOf(mine));
  all->resize(gather.TotalBytes() / kFloat);
  return communicator->AllGatherV(gather.name, mine.data(), all->data(), gather.bytes);
}

absl::Status AllReduceMax(Communicator* communicator, const Collective& reduction,
                          std::vector<float>* data) {
  LONGSPAN_CHECK(reduction.bytes[0] == BytesOf(*data));
  return communicator->AllReduceMax(reduction.name, data->data(),
                                    static_cast<int64_t>(data->size()));
}

}  // namespace longspan
