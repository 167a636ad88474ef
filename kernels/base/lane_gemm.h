#ifndef LONGSPAN_KERNELS_BASE_LANE_GEMM_H_
#define LONGSPAN_KERNELS_BASE_LANE_GEMM_H_

#include <cstdint>

#include "kernels/base/simd.h"

// The small matrix product under scoring and attention: c[m][lane] = sum over k of a[m][k] *
// b[k][lane], with queries in the lanes. `a` is read in place, with any strides (keys row by row,
// values column by column), so nothing is packed but the queries.
namespace longspan {

// Lanes of one query panel, stored [k][kPanelLanes].
inline constexpr int64_t kPanelLanes = 64;
// Rows and vectors of a register tile: kTileRows * kTileVectors accumulators.
inline constexpr int kTileRows = 6;
inline constexpr int kTileVectors = simd::kWidth == 16 ? 4 : 2;

template <int kRows, int kVectors>
struct RegisterTile {
  simd::Float sum[kRows][kVectors];
};

// sum += a * b over `depth` terms, ascending: a[row * row_stride + k * depth_stride], b[k * lanes].
template <int kRows, int kVectors>
inline void MultiplyAdd(const float* a, int64_t row_stride, int64_t depth_stride, const float* b,
                        int64_t lanes, int64_t depth, RegisterTile<kRows, kVectors>* tile) {
  RegisterTile<kRows, kVectors> t = *tile;
  for (int64_t k = 0; k < depth; ++k) {
    simd::Float row[kVectors];
    for (int v = 0; v < kVectors; ++v) row[v] = simd::Load(b + k * lanes + v * simd::kWidth);
    for (int r = 0; r < kRows; ++r) {
      const simd::Float scalar = simd::Broadcast(a[r * row_stride + k * depth_stride]);
      for (int v = 0; v < kVectors; ++v) {
        t.sum[r][v] = simd::MultiplyAdd(scalar, row[v], t.sum[r][v]);
      }
    }
  }
  *tile = t;
}

// Calls f.template operator()<rows>(first_row) for register tiles that cover [0, rows).
template <typename F>
inline void ForEachRowTile(int64_t rows, F&& f) {
  int64_t r = 0;
  for (; r + kTileRows <= rows; r += kTileRows) f.template operator()<kTileRows>(r);
  for (; r + 2 <= rows; r += 2) f.template operator()<2>(r);
  if (r < rows) f.template operator()<1>(r);
}

}  // namespace longspan

#endif  // LONGSPAN_KERNELS_BASE_LANE_GEMM_H_
