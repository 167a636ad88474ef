#ifndef LONGSPAN_LAUNCHER_CUDA_BENCH_INPUTS_H_
#define LONGSPAN_LAUNCHER_CUDA_BENCH_INPUTS_H_

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "absl/status/statusor.h"
#include "kernels/base/dtype.h"
#include "kernels/base/status_macros.h"
#include "kernels/cuda/device.h"
#include "kernels/cuda/rope.h"
#include "launcher/bench_shape.h"

namespace longspan {

// Normal numbers in device memory; some millions of them, repeated in another order each time.
absl::StatusOr<cuda::Buffer> RandomNumbers(int64_t count, DType dtype);

// Device memory with a copy of `values`.
template <typename T>
absl::StatusOr<cuda::Buffer> Upload(const std::vector<T>& values) {
  const auto bytes = static_cast<int64_t>(values.size() * sizeof(T));
  LONGSPAN_ASSIGN_OR_RETURN(cuda::Buffer buffer, cuda::Buffer::Allocate(bytes));
  LONGSPAN_RETURN_IF_ERROR(cuda::Copy(buffer.data(), values.data(), bytes, nullptr));
  return buffer;
}

// So many of inputs of `bytes` that together they are `total`, within limits.
inline int CountVariants(int64_t total, int64_t bytes, int64_t most) {
  return static_cast<int>(std::clamp<int64_t>(total / std::max<int64_t>(1, bytes), 2, most));
}

// Caches of one layer that hold noise: variants * sequences of `tokens` tokens each.
class NoiseCaches {
 public:
  static absl::StatusOr<NoiseCaches> Create(const BenchShape& shape, int64_t tokens,
                                            int64_t sequences);

  int variants() const { return variants_; }
  // Device: page tables of a sequence, of keys and values, and of what is scored.
  const std::byte* const* kv(int variant, int64_t sequence) const {
    return Table(kv_, variant, sequence);
  }
  const std::byte* const* scores(int variant, int64_t sequence) const {
    return Table(scores_.tables.bytes() == 0 ? kv_ : scores_, variant, sequence);
  }

 private:
  // One part of all pages.
  struct Part {
    cuda::Buffer memory, tables;
  };
  static absl::StatusOr<Part> CreatePart(int64_t pages, int64_t bytes, DType dtype);
  const std::byte* const* Table(const Part& part, int variant, int64_t sequence) const {
    return part.tables.as<const std::byte*>() + (variant * sequences_ + sequence) * pages_;
  }

  int variants_ = 0;
  int64_t pages_ = 0, sequences_ = 0;  // of a sequence, of a variant
  Part kv_, scores_;                   // scores that are the keys have no part
};

// Any frequencies do: the angles' values cost nothing.
absl::StatusOr<cuda::RopeAngles> MakeAngles(const BenchShape& shape, int64_t tokens);

}  // namespace longspan

#endif  // LONGSPAN_LAUNCHER_CUDA_BENCH_INPUTS_H_
