#ifndef LONGSPAN_TESTS_KERNELS_SCORE_PAGES_H_
#define LONGSPAN_TESTS_KERNELS_SCORE_PAGES_H_

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "kernels/base/convert.h"
#include "kernels/cuda/device.h"
#include "sharding/sequence_layout.h"
#include "tests/kernels/cuda_testing.h"
#include "tests/kernels/kernel_testing.h"

// Score keys in the pages of ranks, for the tests of kernels that read them.
namespace longspan::cuda {

// As they are after they were stored in `dtype`.
inline std::vector<float> Rounded(const std::vector<float>& values, DType dtype) {
  const Stored stored(values, dtype);
  std::vector<float> rounded(values.size());
  ConvertToFloat(stored.data(), dtype, static_cast<int64_t>(values.size()), rounded.data());
  return rounded;
}

inline Buffer UploadAs(const std::vector<float>& values, DType dtype) {
  std::vector<std::byte> bytes(values.size() * SizeOf(dtype));
  ConvertFromFloat(values.data(), static_cast<int64_t>(values.size()), dtype, bytes.data());
  return Upload(bytes);
}

// As reference::Proximity, but in reasonable time for long rows.
inline std::vector<double> Spread(const std::vector<double>& scores, int64_t proximity) {
  const auto count = static_cast<int64_t>(scores.size());
  std::vector<double> spread(scores.size(), kNan);
  for (int64_t i = 0; i < count; ++i) {
    for (int64_t j = std::max<int64_t>(0, i - proximity); j < std::min(count, i + proximity + 1);
         ++j) {
      spread[i] = std::fmax(spread[i], scores[j]);
    }
  }
  return spread;
}

struct ScorePageShape {
  SequenceLayout layout;
  DType dtype = DType::kBFloat16;
  int64_t dim = 0;
  int32_t halo = 0;
  int64_t tokens = 0;
  Range hull;  // that kernels look at
};

// One rank's pages. What the kernels have no business with is NaN, and a page without any own
// position of the hull has no address.
struct ScorePages {
  static constexpr int64_t kOffset = 512;  // bytes before the score keys of a page

  // keys: [tokens, dim]
  ScorePages(const ScorePageShape& shape, int rank, const std::vector<float>& keys) {
    const SequenceLayout& layout = shape.layout;
    for (int64_t page = 0; page < layout.NumPages(rank, shape.tokens); ++page) {
      const Range stripe = layout.StripeOfPage(rank, page);
      if (Intersect(stripe, shape.hull).empty()) {
        pointers.push_back(nullptr);
        continue;
      }
      const int64_t before = kOffset / SizeOf(shape.dtype);
      std::vector<float> rows(before + (layout.stripe_tokens + 2 * shape.halo) * shape.dim, kNan);
      for (int64_t p = std::max<int64_t>(0, stripe.begin - shape.halo);
           p < std::min(shape.tokens, stripe.end + shape.halo); ++p) {
        std::copy_n(keys.begin() + p * shape.dim, shape.dim,
                    rows.begin() + before + (p - stripe.begin + shape.halo) * shape.dim);
      }
      buffers.push_back(UploadAs(rows, shape.dtype));
      pointers.push_back(buffers.back().data());
    }
    pointers.push_back(nullptr);  // for a rank without any
    table = Upload(pointers);
  }

  std::vector<Buffer> buffers;
  std::vector<const std::byte*> pointers;
  Buffer table;
};

}  // namespace longspan::cuda

#endif  // LONGSPAN_TESTS_KERNELS_SCORE_PAGES_H_
