#ifndef LONGSPAN_RUNTIME_CUDA_CUDA_RUN_H_
#define LONGSPAN_RUNTIME_CUDA_CUDA_RUN_H_

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <optional>
#include <vector>

#include "absl/status/status.h"
#include "absl/types/span.h"
#include "kernels/base/check.h"
#include "kernels/base/status_macros.h"
#include "kernels/cuda/cache_store.h"
#include "kernels/cuda/linear.h"
#include "kernels/cuda/rope.h"
#include "kernels/cuda/select.h"
#include "runtime/attention_context.h"
#include "runtime/cuda/cuda_buffers.h"
#include "runtime/cuda/cuda_phases.h"
#include "runtime/cuda/cuda_weights.h"
#include "runtime/cuda/gpu.h"

namespace longspan {

// Everything that a forward pass on one GPU works with.
struct CudaRun {
  const AttentionContext* context = nullptr;
  Gpu* gpu = nullptr;
  CudaSizes sizes;
  CudaWeights weights;
  cuda::Buffer memory;
  CudaBuffers buffers;
  cuda::RopeAngles rope;
  std::optional<cuda::LinearPlans> linear;
  cuda::SelectWorkspace prefill_select;  // of a chunk's blocks
  cuda::SelectWorkspace decode_select;   // of a step's tokens
  cuda::PinnedBuffer ring_ends;          // of KeyRing: buffers.ring_ends for the host
  CudaPhases* phases = nullptr;          // of this pass; null: nobody asks where time goes

  cuda::Stream stream() const { return gpu->s(); }
  int rank() const { return context->communicator->rank(); }
  int ranks() const { return sizes.ranks; }
  bool reads_pages() const { return sizes.reads_pages(); }
  cuda::ShardGeometry geometry() const {
    return {static_cast<int32_t>(sizes.kv.stripe_tokens), sizes.ranks, rank()};
  }
  cuda::CacheLayer cache_layer(int64_t layer) const {
    const KvShape& kv = sizes.kv;
    cuda::CacheLayer out;
    out.geometry = geometry();
    out.dtype = kv.dtype;
    out.score_dtype = kv.score_dtype;
    out.kv_dim = kv.kv_dim;
    out.key_offset = kv.key_offset(layer);
    out.value_offset = kv.value_offset(layer);
    out.score_dim = kv.score_dim;
    out.score_offset = kv.score_offset(layer);
    out.halo = static_cast<int32_t>(kv.halo);
    return out;
  }
};

// Small arrays that kernels read, uploaded in one copy.
class Parameters {
 public:
  // Offset of the values' copy.
  template <typename T>
  int64_t Add(absl::Span<const T> values) {
    static_assert(alignof(T) <= 8 && sizeof(T) % 8 == 0, "so that all are aligned");
    const size_t offset = bytes_.size();
    bytes_.resize(offset + values.size() * sizeof(T));
    if (!values.empty()) std::memcpy(bytes_.data() + offset, values.data(), bytes_.size() - offset);
    return static_cast<int64_t>(offset);
  }
  // To the buffer for what one launch reads. The copy has been staged when it returns.
  absl::Status Upload(const CudaRun& run) const {
    // CUDA takes a copy of what is small. A larger copy waits on the host for its turn in the
    // stream, which behind a collective would be forever if another rank died: the communicator
    // waits first.
    constexpr int64_t kSmall = 64 << 10;
    if (static_cast<int64_t>(bytes_.size()) > kSmall && run.ranks() > 1) {
      LONGSPAN_RETURN_IF_ERROR(run.gpu->communicator->Synchronize(run.stream()));
    }
    return UploadTo(run.buffers.parameters, run.buffers.parameter_bytes, run.stream());
  }
  // Where values whose offset Add returned are on the device.
  template <typename T>
  const T* Uploaded(const CudaRun& run, int64_t offset) const {
    return reinterpret_cast<const T*>(run.buffers.parameters + offset);
  }
  // The same to any memory; only behind what is done, or if it is small.
  absl::Status UploadTo(std::byte* to, int64_t capacity, cuda::Stream stream) const {
    const auto size = static_cast<int64_t>(bytes_.size());
    LONGSPAN_CHECK(size <= capacity);
    return cuda::Copy(to, bytes_.data(), size, stream);
  }

 private:
  std::vector<std::byte> bytes_;
};

// y [rows, out] = x W^T, or += it; x and W are of the compute dtype. In prefill with
// `deterministic` in panels of one size.
enum class CudaStage { kPrefill, kDecode };
absl::Status Product(CudaRun* run, CudaStage stage, const void* x, int64_t rows, int64_t in,
                     const void* weight, int64_t out, void* y, DType y_dtype,
                     bool accumulate = false);

}  // namespace longspan

#endif  // LONGSPAN_RUNTIME_CUDA_CUDA_RUN_H_
