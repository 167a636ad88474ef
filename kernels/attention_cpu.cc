#include <algorithm>
#include <cmath>
#include <limits>

#include "kernels/attention.h"
#include "kernels/base/lane_gemm.h"
#include "kernels/base/simd.h"

namespace longspan {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();

// c[row][lane] = alpha[lane] * c[row][lane] + sum over k of a(row, k) * b[k][lane]; alpha null: 0.
template <int kVectors>
void LaneGemm(const float* a, int64_t rows, int64_t row_stride, int64_t depth_stride,
              const float* b, int64_t depth, const float* alpha, float* c, int64_t lanes) {
  for (int64_t lane = 0; lane < lanes; lane += kVectors * simd::kWidth) {
    ForEachRowTile(rows, [&]<int kRows>(int64_t first) {
      RegisterTile<kRows, kVectors> tile = {};
      float* out = c + first * lanes + lane;
      if (alpha != nullptr) {
        for (int r = 0; r < kRows; ++r) {
          for (int v = 0; v < kVectors; ++v) {
            tile.sum[r][v] = simd::Load(out + r * lanes + v * simd::kWidth) *
                             simd::Load(alpha + lane + v * simd::kWidth);
          }
        }
      }
      MultiplyAdd(a + first * row_stride, row_stride, depth_stride, b + lane, lanes, depth, &tile);
      for (int r = 0; r < kRows; ++r) {
        for (int v = 0; v < kVectors; ++v) {
          simd::Store(out + r * lanes + v * simd::kWidth, tile.sum[r][v]);
        }
      }
    });
  }
}

void LaneGemm(const float* a, int64_t rows, int64_t row_stride, int64_t depth_stride,
              const float* b, int64_t depth, const float* alpha, float* c, int64_t lanes) {
  if (lanes == kPanelLanes) {
    LaneGemm<kTileVectors>(a, rows, row_stride, depth_stride, b, depth, alpha, c, lanes);
  } else {
    LaneGemm<1>(a, rows, row_stride, depth_stride, b, depth, alpha, c, lanes);
  }
}

// Turns scores [keys, lanes] into exp(score - new maximum), updates maximum and sum, and gives the
// factor that earlier output must be scaled by.
void OnlineSoftmax(float* scores, int64_t keys, int64_t lanes, float* max, float* sum,
                   float* alpha) {
  for (int64_t lane = 0; lane < lanes; lane += simd::kWidth) {
    const simd::Float old_max = simd::Load(max + lane);
    simd::Float new_max = old_max;
    for (int64_t k = 0; k < keys; ++k) {
      new_max = simd::Max(simd::Load(scores + k * lanes + lane), new_max);
    }
    // A lane that has seen no key yet subtracts 0 rather than -inf.
    const simd::Float shift = new_max > simd::Broadcast(-kInfinity) ? new_max : simd::Float{};
    const simd::Float scale = simd::Exp(old_max - shift);
    simd::Float total = simd::Load(sum + lane) * scale;
    for (int64_t k = 0; k < keys; ++k) {
      const simd::Float p = simd::Exp(simd::Load(scores + k * lanes + lane) - shift);
      simd::Store(scores + k * lanes + lane, p);
      total += p;
    }
    simd::Store(max + lane, new_max);
    simd::Store(sum + lane, total);
    simd::Store(alpha + lane, scale);
  }
}

// scores[key][lane] = -inf where the key lies behind the lane's query.
void MaskFuture(const int32_t* offsets, int64_t keys, const int32_t* query, int64_t lanes,
                float* scores) {
  for (int64_t k = 0; k < keys; ++k) {
    for (int64_t l = 0; l < lanes; ++l) {
      if (offsets[k] > query[l]) scores[k * lanes + l] = -kInfinity;
    }
  }
}

}  // namespace

void BlockAttention::Reset(const float* near, const float* far, int64_t count,
                           int64_t first_position) {
  count_ = count;
  first_position_ = first_position;
  const int64_t rows = count * shape_.group();
  lanes_ = rows <= simd::kWidth ? simd::kWidth : kPanelLanes;
  panels_ = (rows + lanes_ - 1) / lanes_;
  const int64_t lanes = shape_.kv_heads * panels_ * lanes_;
  Pack(near, &near_);
  if (far != nullptr) Pack(far, &far_);
  output_.assign(lanes * shape_.head_dim, 0.0f);
  max_.assign(lanes, -kInfinity);
  sum_.assign(lanes, 0.0f);
}

void BlockAttention::Pack(const float* rows, std::vector<float>* panels) const {
  const int64_t dim = shape_.head_dim;
  const auto scale = static_cast<float>(shape_.score_scale / std::sqrt(static_cast<double>(dim)));
  panels->assign(shape_.kv_heads * panels_ * dim * lanes_, 0.0f);
  for (int64_t g = 0; g < shape_.kv_heads; ++g) {
    for (int64_t lane = 0; lane < count_ * shape_.group(); ++lane) {
      const int64_t head = g * shape_.group() + lane / count_;
      const float* row = rows + (lane % count_) * shape_.query_dim() + head * dim;
      float* panel = panels->data() + (g * panels_ + lane / lanes_) * dim * lanes_;
      for (int64_t d = 0; d < dim; ++d) panel[d * lanes_ + lane % lanes_] = row[d] * scale;
    }
  }
}

void BlockAttention::Attend(const std::vector<float>& queries, const KeyTile* tile, bool causal) {
  const int64_t dim = shape_.head_dim;
  const int64_t keys = tile->count;
  if (keys == 0) return;
  // Relative to the block's first query; keys far behind it need no exact distance.
  int32_t offsets[kAttentionTile];
  for (int64_t k = 0; k < keys; ++k) {
    offsets[k] = static_cast<int32_t>(std::max<int64_t>(tile->positions[k] - first_position_, -1));
  }
  const int32_t first_key = *std::min_element(offsets, offsets + keys);
  const int32_t last_key = *std::max_element(offsets, offsets + keys);
  alignas(64) float scores[kAttentionTile * kPanelLanes];
  alignas(64) float alpha[kPanelLanes];
  alignas(64) int32_t query[kPanelLanes];  // of each lane, counted from the block's first
  for (int64_t p = 0; p < panels_; ++p) {
    for (int64_t l = 0; l < lanes_; ++l) query[l] = (p * lanes_ + l) % count_;
    if (causal && first_key > *std::max_element(query, query + lanes_)) continue;
    const bool masked = causal && last_key > *std::min_element(query, query + lanes_);
    for (int64_t g = 0; g < shape_.kv_heads; ++g) {
      const int64_t panel = g * panels_ + p;
      LaneGemm(tile->keys.data() + g * kAttentionTile * dim, keys, dim, 1,
               queries.data() + panel * dim * lanes_, dim, nullptr, scores, lanes_);
      if (masked) MaskFuture(offsets, keys, query, lanes_, scores);
      OnlineSoftmax(scores, keys, lanes_, max_.data() + panel * lanes_,
                    sum_.data() + panel * lanes_, alpha);
      LaneGemm(tile->values.data() + g * kAttentionTile * dim, dim, 1, dim, scores, keys, alpha,
               output_.data() + panel * dim * lanes_, lanes_);
    }
  }
}

void BlockAttention::Finish(float* output, float* lse) const {
  const int64_t dim = shape_.head_dim;
  for (int64_t g = 0; g < shape_.kv_heads; ++g) {
    for (int64_t lane = 0; lane < count_ * shape_.group(); ++lane) {
      const int64_t panel = g * panels_ + lane / lanes_;
      const int64_t in_panel = lane % lanes_;
      const int64_t row = (lane % count_) * shape_.heads + g * shape_.group() + lane / count_;
      const float sum = sum_[panel * lanes_ + in_panel];
      const float* from = output_.data() + panel * dim * lanes_ + in_panel;
      for (int64_t d = 0; d < dim; ++d) {
        output[row * dim + d] = sum == 0 ? 0.0f : from[d * lanes_] / sum;
      }
      if (lse != nullptr) {
        lse[row] = sum == 0 ? -kInfinity : max_[panel * lanes_ + in_panel] + std::log(sum);
      }
    }
  }
}

void MergePartials(const MergePartialsArgs& args) {
  for (int64_t row = 0; row < args.rows; ++row) {
    float max = -kInfinity;
    for (int64_t p = 0; p < args.parts; ++p) {
      max = std::max(max, args.lse[p * args.part_stride + row]);
    }
    const float shift = max > -kInfinity ? max : 0.0f;
    float* out = args.output + row * args.head_dim;
    std::fill_n(out, args.head_dim, 0.0f);
    float total = 0;
    for (int64_t p = 0; p < args.parts; ++p) {
      const float weight = std::exp(args.lse[p * args.part_stride + row] - shift);
      if (weight == 0) continue;
      const float* in = args.outputs + p * args.part_stride + row * args.head_dim;
      for (int64_t d = 0; d < args.head_dim; ++d) out[d] += weight * in[d];
      total += weight;
    }
    if (total == 0) continue;
    for (int64_t d = 0; d < args.head_dim; ++d) out[d] /= total;
  }
}

}  // namespace longspan
