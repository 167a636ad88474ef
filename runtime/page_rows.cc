#include "runtime/page_rows.h"

#include <array>
#include <cstring>

namespace longspan {
namespace {

// One layer's rows of one kind.
struct Rows {
  int64_t offset = 0;  // bytes from the page's begin to the row of the stripe's first token
  int64_t row_bytes = 0;
  Range positions;
};

// Keys, values and score keys.
std::array<Rows, 3> RowsOfLayer(const HostPage& page, int64_t layer) {
  const KvShape& shape = *page.shape;
  const auto with_halo = [&](int64_t halo) {
    return Range{page.begin - halo, page.begin + shape.stripe_tokens + halo};
  };
  std::array<Rows, 3> rows = {
      Rows{shape.key_offset(layer), shape.row_bytes(),
           with_halo(shape.score_is_key ? shape.halo : 0)},
      Rows{shape.value_offset(layer), shape.row_bytes(), with_halo(0)},
  };
  if (shape.score_bytes() > 0) {
    const int64_t row_bytes = shape.score_row_bytes();
    rows[2] = {shape.kv_bytes() + shape.score_offset(layer) + shape.halo * row_bytes, row_bytes,
               with_halo(shape.halo)};
  }
  return rows;
}

}  // namespace

void CopyRows(const HostPage& from, Range valid, const HostPage& to) {
  for (int64_t layer = 0; layer < from.shape->layers; ++layer) {
    const std::array<Rows, 3> sources = RowsOfLayer(from, layer);
    const std::array<Rows, 3> targets = RowsOfLayer(to, layer);
    for (size_t kind = 0; kind < sources.size(); ++kind) {
      const Rows& source = sources[kind];
      const Rows& target = targets[kind];
      const Range common = Intersect(valid, Intersect(source.positions, target.positions));
      if (common.empty()) continue;
      std::memcpy(to.bytes + target.offset + (common.begin - to.begin) * target.row_bytes,
                  from.bytes + source.offset + (common.begin - from.begin) * source.row_bytes,
                  common.size() * source.row_bytes);
    }
  }
}

}  // namespace longspan
