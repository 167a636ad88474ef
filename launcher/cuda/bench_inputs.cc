#include "launcher/cuda/bench_inputs.h"

#include <cmath>
#include <random>

#include "kernels/base/convert.h"

namespace longspan {

absl::StatusOr<cuda::Buffer> RandomNumbers(int64_t count, DType dtype) {
  constexpr int64_t kBlock = int64_t{1} << 22;
  static std::mt19937 generator(1);
  std::normal_distribution<float> normal;
  const int64_t size = SizeOf(dtype);
  LONGSPAN_ASSIGN_OR_RETURN(cuda::Buffer buffer, cuda::Buffer::Allocate(count * size));
  std::vector<float> values(std::min(count, kBlock));
  std::vector<std::byte> stored(values.size() * size);
  for (float& value : values) value = normal(generator);
  ConvertFromFloat(values.data(), static_cast<int64_t>(values.size()), dtype, stored.data());
  for (int64_t i = 0; i < count; i += kBlock) {
    const auto shift = static_cast<int64_t>(i / kBlock % 977 * 256 % stored.size());
    std::rotate(stored.begin(), stored.begin() + shift, stored.end());
    LONGSPAN_RETURN_IF_ERROR(cuda::Copy(buffer.data() + i * size, stored.data(),
                                        std::min(kBlock, count - i) * size, nullptr));
    LONGSPAN_RETURN_IF_ERROR(cuda::Synchronize(nullptr));
  }
  return buffer;
}

absl::StatusOr<NoiseCaches::Part> NoiseCaches::CreatePart(int64_t pages, int64_t bytes,
                                                          DType dtype) {
  Part part;
  LONGSPAN_ASSIGN_OR_RETURN(part.memory, RandomNumbers(pages * bytes / SizeOf(dtype), dtype));
  std::vector<const std::byte*> table;
  for (int64_t page = 0; page < pages; ++page) table.push_back(part.memory.data() + page * bytes);
  LONGSPAN_ASSIGN_OR_RETURN(part.tables, Upload(table));
  return part;
}

absl::StatusOr<NoiseCaches> NoiseCaches::Create(const BenchShape& shape, int64_t tokens,
                                                int64_t sequences) {
  constexpr int64_t kTotalBytes = int64_t{8} << 30;
  constexpr int64_t kMostVariants = 8;
  const KvShape kv = shape.layer_cache();
  NoiseCaches caches;
  caches.sequences_ = sequences;
  caches.pages_ = (tokens + shape.stripe_tokens - 1) / shape.stripe_tokens;
  const int64_t bytes = sequences * caches.pages_ * kv.page_bytes();
  caches.variants_ = CountVariants(kTotalBytes, bytes, kMostVariants);
  const int64_t pages = caches.variants_ * sequences * caches.pages_;
  LONGSPAN_ASSIGN_OR_RETURN(caches.kv_, CreatePart(pages, kv.kv_bytes(), shape.cache_dtype));
  if (kv.score_bytes() == 0) return caches;
  LONGSPAN_ASSIGN_OR_RETURN(caches.scores_, CreatePart(pages, kv.score_bytes(), shape.score_dtype));
  return caches;
}

absl::StatusOr<cuda::RopeAngles> MakeAngles(const BenchShape& shape, int64_t tokens) {
  constexpr double kTheta = 500000;
  std::vector<double> frequencies;
  for (int64_t i = 0; i < shape.head_dim / 2; ++i) {
    frequencies.push_back(
        std::pow(kTheta, -2.0 * static_cast<double>(i) / static_cast<double>(shape.head_dim)));
  }
  const int64_t farthest =
      std::max({tokens, shape.far_position + 1, shape.initial_tokens + shape.local_tokens + 1});
  return cuda::RopeAngles::Create(
      frequencies, std::max(cuda::RopeAngles::kCoarseCount, farthest / cuda::kRopeFine + 1));
}

}  // namespace longspan
