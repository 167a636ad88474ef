#ifndef LONGSPAN_KERNELS_SCORE_TILES_H_
#define LONGSPAN_KERNELS_SCORE_TILES_H_

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "kernels/base/convert.h"
#include "kernels/base/lane_gemm.h"
#include "kernels/score.h"

// What the CPU kernels of score.h and vote.h are made of: tiles of keys as floats, times the
// queries in the lanes of a register tile.
namespace longspan {

// Keys that stay in the first-level cache while the panels of a block pass by.
inline constexpr int64_t kKeyTile = 96;
inline constexpr int64_t kTileLanes = kTileVectors * simd::kWidth;
static_assert(kMinTileKeys == kTileRows);

// Consecutive keys: [count, dim] float, rows `stride` floats apart.
struct FloatKeys {
  const float* data = nullptr;
  int64_t stride = 0;
  int64_t first = 0;  // among all keys of the call
  int64_t count = 0;

  const float* row(int64_t m) const { return data + m * stride; }
  FloatKeys Part(int64_t begin, int64_t n) const {
    return {row(begin), stride, first + begin, std::min(n, count - begin)};
  }
};

// Calls f(FloatKeys) over all keys, kKeyTile at a time, converting where needed.
template <typename F>
void ForEachKeyTile(const ScoreKeys& keys, int64_t dim, F&& f) {
  const int64_t stride = keys.stride == 0 ? dim : keys.stride;
  std::vector<float> converted(keys.dtype == DType::kFloat32 ? 0 : kKeyTile * dim);
  for (int64_t first = 0; first < keys.count; first += kKeyTile) {
    const int64_t n = std::min(kKeyTile, keys.count - first);
    const auto* source =
        static_cast<const std::byte*>(keys.data) + first * stride * SizeOf(keys.dtype);
    if (keys.dtype == DType::kFloat32) {
      f(FloatKeys{reinterpret_cast<const float*>(source), stride, first, n});
      continue;
    }
    const int64_t rows = stride == dim ? 1 : n;  // converted one by one, or all at once
    for (int64_t r = 0; r < rows; ++r) {
      ConvertToFloat(source + r * stride * SizeOf(keys.dtype), keys.dtype, n / rows * dim,
                     converted.data() + r * dim);
    }
    f(FloatKeys{converted.data(), dim, first, n});
  }
}

// Scores of kRows keys, from the m-th on, with the queries of one register tile.
template <int kRows>
RegisterTile<kRows, kTileVectors> Scores(const FloatKeys& keys, int64_t m, int64_t dim,
                                         const float* queries) {
  RegisterTile<kRows, kTileVectors> tile = {};
  MultiplyAdd(keys.row(m), keys.stride, 1, queries, kPanelLanes, dim, &tile);
  return tile;
}

inline float HorizontalMax(simd::Float v) {
  float best = v[0];
  for (int i = 1; i < simd::kWidth; ++i) best = v[i] > best ? v[i] : best;
  return best;
}

}  // namespace longspan

#endif  // LONGSPAN_KERNELS_SCORE_TILES_H_
