#include "runtime/page_rows.h"

#include <cstdint>
#include <string>
#include <vector>

#include "gtest/gtest.h"

namespace longspan {
namespace {

KvShape Shape(int64_t stripe_tokens, int64_t halo, bool score_is_key, int64_t score_dim) {
  KvShape shape;
  shape.layers = 2;
  shape.kv_dim = 3;
  shape.stripe_tokens = stripe_tokens;
  shape.halo = halo;
  shape.score_is_key = score_is_key;
  shape.score_dim = score_is_key ? shape.kv_dim : score_dim;
  shape.dtype = DType::kBFloat16;
  shape.score_dtype = score_is_key ? shape.dtype : DType::kFloat8E4M3;
  return shape;
}

// A page that holds of every position in `held` what tells layer, kind and position; else zeros.
// Written with what KvShape says of a page, one row at a time.
std::string MakePage(const KvShape& shape, int64_t begin, Range held) {
  std::string bytes(shape.page_bytes(), '\0');
  const auto write = [&](int64_t at, int64_t row_bytes, int64_t layer, char kind, int64_t p) {
    for (int64_t i = 0; i < row_bytes; ++i) {
      bytes[at + i] = static_cast<char>(1 + layer * 100 + kind + 7 * p + i);
    }
  };
  for (int64_t layer = 0; layer < shape.layers; ++layer) {
    for (int64_t p = held.begin; p < held.end; ++p) {
      const int64_t row = p - begin;
      const bool is_own = row >= 0 && row < shape.stripe_tokens;
      const bool is_near = row >= -shape.halo && row < shape.stripe_tokens + shape.halo;
      if (is_own || (is_near && shape.score_is_key)) {
        write(shape.key_offset(layer) + row * shape.row_bytes(), shape.row_bytes(), layer, 'k', p);
      }
      if (is_own) {
        write(shape.value_offset(layer) + row * shape.row_bytes(), shape.row_bytes(), layer, 'v',
              p);
      }
      if (is_near && shape.score_bytes() > 0) {
        write(shape.kv_bytes() + shape.score_offset(layer) +
                  (shape.halo + row) * shape.score_row_bytes(),
              shape.score_row_bytes(), layer, 's', p);
      }
    }
  }
  return bytes;
}

std::byte* Bytes(std::string& text) { return reinterpret_cast<std::byte*>(text.data()); }

TEST(CopyRowsTest, MovesEveryRowToWhereStripesOfAnotherLengthHaveIt) {
  struct Kind {
    int64_t halo;
    bool score_is_key;
    int64_t score_dim;
  };
  constexpr int64_t kTokens = 41;
  for (const Kind& kind :
       std::vector<Kind>{{0, false, 0}, {0, false, 5}, {3, false, 5}, {4, true, 0}, {0, true, 0}}) {
    for (const int64_t from_stripe : {4, 8, 12}) {
      for (const int64_t to_stripe : {4, 8, 20, 64}) {
        SCOPED_TRACE(::testing::Message()
                     << "halo " << kind.halo << ", from " << from_stripe << " to " << to_stripe);
        const KvShape from = Shape(from_stripe, kind.halo, kind.score_is_key, kind.score_dim);
        const KvShape to = Shape(to_stripe, kind.halo, kind.score_is_key, kind.score_dim);
        for (int64_t begin = 0; begin < kTokens; begin += to_stripe) {
          std::string page(to.page_bytes(), '\0');
          for (int64_t f = 0; f < kTokens; f += from_stripe) {
            if (f + from_stripe <= begin || f >= begin + to_stripe) continue;
            // What is behind `valid` is no part of the prompt.
            std::string source = MakePage(from, f, {std::max<int64_t>(0, f - kind.halo), 1000});
            const Range valid = {std::max<int64_t>(0, f - kind.halo),
                                 std::min(kTokens, f + from_stripe + kind.halo)};
            CopyRows({&from, f, Bytes(source)}, valid, {&to, begin, Bytes(page)});
          }
          EXPECT_EQ(page, MakePage(to, begin, {std::max<int64_t>(0, begin - kind.halo), kTokens}))
              << "page at " << begin;
        }
      }
    }
  }
}

}  // namespace
}  // namespace longspan
