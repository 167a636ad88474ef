#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "kernels/base/check.h"
#include "kernels/score.h"
#include "kernels/score_tiles.h"

namespace longspan {
namespace {

// maxima = max(maxima, f) of the lanes of one register tile.
void TileMaxima(const FloatKeys& keys, int64_t dim, const float* queries, float* maxima) {
  simd::Float best[kTileVectors];
  for (int v = 0; v < kTileVectors; ++v) best[v] = simd::Load(maxima + v * simd::kWidth);
  ForEachRowTile(keys.count, [&]<int kRows>(int64_t first) {
    const auto tile = Scores<kRows>(keys, first, dim, queries);
    for (int r = 0; r < kRows; ++r) {
      for (int v = 0; v < kTileVectors; ++v) best[v] = simd::Max(tile.sum[r][v], best[v]);
    }
  });
  for (int v = 0; v < kTileVectors; ++v) simd::Store(maxima + v * simd::kWidth, best[v]);
}

// best[key][lane] = max(best, f - maxima) for one panel.
void TileExcess(const FloatKeys& keys, int64_t dim, const float* queries, const float* maxima,
                simd::Float* best) {
  simd::Float limit[kTileVectors];
  for (int v = 0; v < kTileVectors; ++v) limit[v] = simd::Load(maxima + v * simd::kWidth);
  ForEachRowTile(keys.count, [&]<int kRows>(int64_t first) {
    const auto tile = Scores<kRows>(keys, first, dim, queries);
    for (int r = 0; r < kRows; ++r) {
      for (int v = 0; v < kTileVectors; ++v) {
        best[first + r] = simd::Max(tile.sum[r][v] - limit[v], best[first + r]);
      }
    }
  });
}

// True if every f(m; c) - maxima[c] of the key is NaN: told apart from -inf only when it matters.
bool AllNaN(const ScoreBlockArgs& args, const float* key) {
  for (int64_t c = 0; c < args.num_queries; ++c) {
    const float* panel = args.queries + c / kPanelLanes * args.dim * kPanelLanes + c % kPanelLanes;
    float sum = 0;
    for (int64_t d = 0; d < args.dim; ++d) sum = std::fma(key[d], panel[d * kPanelLanes], sum);
    if (!std::isnan(sum - args.maxima[c])) return false;
  }
  return true;
}

}  // namespace

int64_t NumPanels(int64_t queries) { return (queries + kPanelLanes - 1) / kPanelLanes; }

void PackQueries(const float* rows, int64_t count, int64_t dim, int64_t row_stride, float* panels) {
  for (int64_t p = 0; p < NumPanels(count); ++p) {
    float* panel = panels + p * dim * kPanelLanes;
    const int64_t n = std::min(kPanelLanes, count - p * kPanelLanes);
    if (n < kPanelLanes) std::fill_n(panel, dim * kPanelLanes, 0.0f);
    for (int64_t c = 0; c < n; ++c) {
      const float* row = rows + (p * kPanelLanes + c) * row_stride;
      for (int64_t d = 0; d < dim; ++d) panel[d * kPanelLanes + c] = row[d];
    }
  }
}

void ScoreMaxima(const ScoreMaximaArgs& args) {
  const int64_t lanes = args.num_panels * kPanelLanes;
  const bool tiled = args.tile_maxima != nullptr;
  const int64_t step = tiled ? std::min(args.tile_keys, kKeyTile) : kKeyTile;
  LONGSPAN_CHECK(kKeyTile % step == 0 && step % kMinTileKeys == 0);
  LONGSPAN_CHECK(!tiled || args.tile_keys % step == 0);
  if (tiled) {
    std::fill_n(args.tile_maxima, NumTiles(args.keys.count, args.tile_keys) * lanes,
                -std::numeric_limits<float>::infinity());
  }
  ForEachKeyTile(args.keys, args.dim, [&](const FloatKeys& keys) {
    for (int64_t lane = 0; lane < lanes; lane += kTileLanes) {
      const float* queries =
          args.queries + lane / kPanelLanes * args.dim * kPanelLanes + lane % kPanelLanes;
      for (int64_t m = 0; m < keys.count; m += step) {
        float* maxima =
            tiled ? args.tile_maxima + (keys.first + m) / args.tile_keys * lanes : args.maxima;
        TileMaxima(keys.Part(m, step), args.dim, queries, maxima + lane);
      }
    }
  });
  if (!tiled) return;
  for (int64_t t = 0; t < NumTiles(args.keys.count, args.tile_keys); ++t) {
    const float* tile = args.tile_maxima + t * lanes;
    for (int64_t lane = 0; lane < lanes; ++lane) {
      args.maxima[lane] = tile[lane] > args.maxima[lane] ? tile[lane] : args.maxima[lane];
    }
  }
}

void TileBounds(const float* tile_maxima, int64_t tiles, int64_t lanes, const float* maxima,
                float* bounds) {
  for (int64_t t = 0; t < tiles; ++t) {
    simd::Float best = simd::Broadcast(-std::numeric_limits<float>::infinity());
    for (int64_t lane = 0; lane < lanes; lane += simd::kWidth) {
      best =
          simd::Max(simd::Load(tile_maxima + t * lanes + lane) - simd::Load(maxima + lane), best);
    }
    bounds[t] = HorizontalMax(best);
  }
}

void ScoreBlock(const ScoreBlockArgs& args) {
  ForEachKeyTile(args.keys, args.dim, [&](const FloatKeys& keys) {
    simd::Float best[kKeyTile];
    std::fill_n(best, keys.count, simd::Broadcast(-std::numeric_limits<float>::infinity()));
    for (int64_t p = 0; p < NumPanels(args.num_queries); ++p) {
      for (int64_t lane = 0; lane < kPanelLanes; lane += kTileLanes) {
        TileExcess(keys, args.dim, args.queries + p * args.dim * kPanelLanes + lane,
                   args.maxima + p * kPanelLanes + lane, best);
      }
    }
    for (int64_t m = 0; m < keys.count; ++m) {
      float score = HorizontalMax(best[m]);
      if (std::isinf(score) && score < 0 && AllNaN(args, keys.row(m))) score = NAN;
      args.scores[keys.first + m] = score;
    }
  });
}

void ScoreToken(const float* query, int64_t dim, const ScoreKeys& keys, float* scores) {
  ForEachKeyTile(keys, dim, [&](const FloatKeys& tile) {
    for (int64_t m = 0; m < tile.count; ++m) {
      const float* key = tile.row(m);
      simd::Float sum = {};
      int64_t d = 0;
      for (; d + simd::kWidth <= dim; d += simd::kWidth) {
        sum = simd::MultiplyAdd(simd::Load(key + d), simd::Load(query + d), sum);
      }
      float total = 0;
      for (; d < dim; ++d) total = std::fma(key[d], query[d], total);
      for (int i = 0; i < simd::kWidth; ++i) total += sum[i];
      scores[tile.first + m] = total;
    }
  });
}

}  // namespace longspan
