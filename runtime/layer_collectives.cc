#include "runtime/layer_collectives.h"

#include <algorithm>

#include "kernels/base/check.h"
#include "kernels/base/lane_gemm.h"
#include "kernels/base/status_macros.h"
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
  shape.unit_tokens = context.esa.unit_tokens;
  shape.halo = context.kv.halo;
  shape.score_row_bytes = context.kv.score_row_bytes();
  shape.query_row_bytes = context.voters.query_dim() * kFloat;
  if (context.esa.score != Score::kHeadSum) shape.voters = context.voters.count;
  shape.soft_votes = context.voters.soft;
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

absl::Status AllReduceSum(Communicator* communicator, const Collective& reduction,
                          std::vector<int64_t>* data) {
  // Of 16 bits each: their sums over 2^16 ranks, the most that there may be, fit 32 bits.
  constexpr int kBits = 16;
  std::vector<uint32_t> digits(data->size() * kVoteSumDigits);
  LONGSPAN_CHECK(reduction.bytes[0] == static_cast<int64_t>(digits.size() * sizeof(uint32_t)));
  for (size_t i = 0; i < digits.size(); ++i) {
    const auto number = static_cast<uint64_t>((*data)[i / kVoteSumDigits]);
    digits[i] = number >> (i % kVoteSumDigits * kBits) & 0xffff;
  }
  LONGSPAN_RETURN_IF_ERROR(communicator->AllReduceSum(reduction.name, digits.data(),
                                                      static_cast<int64_t>(digits.size())));
  std::fill(data->begin(), data->end(), 0);
  for (size_t i = 0; i < digits.size(); ++i) {
    (*data)[i / kVoteSumDigits] += int64_t{digits[i]} << (i % kVoteSumDigits * kBits);
  }
  return absl::OkStatus();
}

}  // namespace longspan
