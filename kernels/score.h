#ifndef LONGSPAN_KERNELS_SCORE_H_
#define LONGSPAN_KERNELS_SCORE_H_

#include <cstdint>

#include "kernels/base/dtype.h"

namespace longspan {

// Scoring of ESA (arXiv 2502.14477, section 3): f(m; c) = query(c) . key(m), where query and key
// are the compressed ones or, exactly, the group-summed query and the concatenated keys.
//
// Queries of one selection block, packed: [panels, dim, kPanelLanes] float32, lanes past the last
// query are zero.
int64_t NumPanels(int64_t queries);
void PackQueries(const float* rows,  // [count, dim], rows `row_stride` floats apart
                 int64_t count, int64_t dim, int64_t row_stride,
                 float* panels);  // [NumPanels(count), dim, kPanelLanes]

inline constexpr int64_t kMinTileKeys = 6;
inline int64_t NumTiles(int64_t keys, int64_t tile_keys) {
  return (keys + tile_keys - 1) / tile_keys;
}

struct ScoreKeys {
  const void* data = nullptr;  // [count, dim]
  DType dtype = DType::kFloat32;
  int64_t count = 0;
  int64_t stride = 0;  // numbers from one key to the next; 0: dim
};

// Pass one: maxima[c] = max(maxima[c], max over the keys of f(m; c)). NaN never wins; an empty set
// of keys changes nothing.
struct ScoreMaximaArgs {
  const float* queries = nullptr;  // panels
  int64_t num_panels = 0;
  int64_t dim = 0;
  ScoreKeys keys;
  float* maxima = nullptr;  // [num_panels * kPanelLanes], in and out
  // If not null, the same maxima over each `tile_keys` consecutive keys alone (the last tile may
  // have fewer): [NumTiles(keys.count, tile_keys), num_panels * kPanelLanes]. See TileBounds.
  float* tile_maxima = nullptr;
  int64_t tile_keys = kMinTileKeys;  // kMinTileKeys times a power of two
};
void ScoreMaxima(const ScoreMaximaArgs& args);

// bounds[t] = max over the lanes of (tile_maxima[t] - maxima): with the final maxima this is
// exactly the largest ScoreBlock score of the tile's keys, since rounding preserves order. Pass two
// can leave out the tiles whose bound shows that they have no key to select. -inf if every term is
// NaN.
void TileBounds(const float* tile_maxima, int64_t tiles, int64_t lanes, const float* maxima,
                float* bounds);

// Pass two: scores[m] = max over the block's queries c of (f(m; c) - maxima[c]). Terms that are NaN
// are passed over; a key whose every term is NaN scores NaN. maxima of unused lanes are +inf.
struct ScoreBlockArgs {
  const float* queries = nullptr;
  int64_t num_queries = 0;
  int64_t dim = 0;
  ScoreKeys keys;
  const float* maxima = nullptr;  // [NumPanels(num_queries) * kPanelLanes]
  float* scores = nullptr;        // [keys.count]
};
void ScoreBlock(const ScoreBlockArgs& args);

// Decode: scores[m] = query . key(m) of one query [dim].
void ScoreToken(const float* query, int64_t dim, const ScoreKeys& keys, float* scores);

}  // namespace longspan

#endif  // LONGSPAN_KERNELS_SCORE_H_
