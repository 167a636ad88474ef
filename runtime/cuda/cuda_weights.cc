#include "runtime/cuda/cuda_weights.h"

#include <algorithm>
#include <utility>

#include "kernels/base/convert.h"
#include "kernels/base/status_macros.h"
#include "runtime/cuda/arena.h"

namespace longspan {
namespace {

constexpr int64_t kConvertedAtOnce = 1 << 22;  // numbers

// Lays weights out in an arena and, if it has memory, fills it.
class Uploader {
 public:
  Uploader(Arena* arena, DType dtype, cuda::Stream stream)
      : arena_(arena), dtype_(dtype), stream_(stream) {}

  // Matrices one behind the other, of the compute dtype.
  std::byte* Matrix(absl::Span<const Tensor> parts) {
    return Stacked<std::byte>(parts, dtype_, SizeOf(dtype_));
  }
  // Vectors one behind the other, float32; null where the first is missing.
  float* Vector(absl::Span<const Tensor> parts) {
    return Stacked<float>(parts, DType::kFloat32, 1);
  }
  std::byte* Factor(const std::vector<float>& factor) {
    std::byte* to = arena_->Take<std::byte>(static_cast<int64_t>(factor.size()) * SizeOf(dtype_));
    if (arena_->has_memory()) {
      Write(factor.data(), DType::kFloat32, static_cast<int64_t>(factor.size()), dtype_, to);
    }
    return to;
  }

  const absl::Status& status() const { return status_; }

 private:
  template <typename T>
  T* Stacked(absl::Span<const Tensor> parts, DType dtype, int64_t units) {
    if (parts[0].data == nullptr) return nullptr;
    int64_t count = 0;
    for (const Tensor& part : parts) count += part.num_elements();
    T* stacked = arena_->Take<T>(count * units);
    if (!arena_->has_memory()) return stacked;
    auto* to = reinterpret_cast<std::byte*>(stacked);
    for (const Tensor& part : parts) {
      Write(part.data, part.dtype, part.num_elements(), dtype, to);
      to += part.num_elements() * SizeOf(dtype);
    }
    return stacked;
  }

  void Write(const void* from, DType from_dtype, int64_t count, DType dtype, std::byte* to) {
    if (from_dtype == dtype) {
      status_.Update(cuda::Copy(to, from, count * SizeOf(dtype), stream_));
      return;
    }
    std::vector<float> floats(std::min(count, kConvertedAtOnce));
    std::vector<std::byte> converted(floats.size() * SizeOf(dtype));
    const auto* bytes = static_cast<const std::byte*>(from);
    for (int64_t i = 0; i < count; i += kConvertedAtOnce) {
      const int64_t some = std::min(kConvertedAtOnce, count - i);
      ConvertToFloat(bytes + i * SizeOf(from_dtype), from_dtype, some, floats.data());
      ConvertFromFloat(floats.data(), some, dtype, converted.data());
      status_.Update(
          cuda::Copy(to + i * SizeOf(dtype), converted.data(), some * SizeOf(dtype), stream_));
    }
  }

  Arena* arena_;
  DType dtype_;
  cuda::Stream stream_;
  absl::Status status_;
};

absl::Status Lay(const ModelWeights& weights, absl::Span<const ScoreFactors> factors, DType dtype,
                 cuda::Stream stream, Arena* arena, CudaWeights* out) {
  Uploader uploader(arena, dtype, stream);
  out->dtype = dtype;
  out->embedding = uploader.Matrix({weights.embedding});
  const bool tied = weights.lm_head.data == weights.embedding.data;
  out->lm_head = tied ? out->embedding : uploader.Matrix({weights.lm_head});
  out->final_norm = uploader.Vector({weights.final_norm});
  for (size_t i = 0; i < weights.layers.size(); ++i) {
    const LayerWeights& from = weights.layers[i];
    CudaLayer& to = out->layers.emplace_back();
    to.attention_norm = uploader.Vector({from.attention_norm});
    to.qkv = uploader.Matrix({from.query, from.key, from.value});
    to.qkv_bias = uploader.Vector({from.query_bias, from.key_bias, from.value_bias});
    to.query_norm = uploader.Vector({from.query_norm});
    to.key_norm = uploader.Vector({from.key_norm});
    to.output = uploader.Matrix({from.output});
    to.output_bias = uploader.Vector({from.output_bias});
    to.mlp_norm = uploader.Vector({from.mlp_norm});
    to.gate_up = uploader.Matrix({from.gate, from.up});
    to.down = uploader.Matrix({from.down});
    if (factors.empty()) continue;
    to.query_factor = uploader.Factor(factors[i].query);
    to.key_factor = uploader.Factor(factors[i].key);
  }
  return uploader.status();
}

}  // namespace

int64_t CudaWeights::Bytes(const ModelWeights& weights, absl::Span<const ScoreFactors> factors,
                           DType dtype) {
  Arena arena;
  CudaWeights layout;
  Lay(weights, factors, dtype, nullptr, &arena, &layout).IgnoreError();
  return arena.bytes();
}

absl::StatusOr<CudaWeights> CudaWeights::Upload(const ModelWeights& weights,
                                                absl::Span<const ScoreFactors> factors, DType dtype,
                                                cuda::Stream stream) {
  CudaWeights out;
  LONGSPAN_ASSIGN_OR_RETURN(out.buffer, cuda::Buffer::Allocate(Bytes(weights, factors, dtype)));
  Arena arena(out.buffer.data());
  LONGSPAN_RETURN_IF_ERROR(Lay(weights, factors, dtype, stream, &arena, &out));
  LONGSPAN_RETURN_IF_ERROR(cuda::Synchronize(stream));
  return out;
}

}  // namespace longspan
