#ifndef LONGSPAN_RUNTIME_CUDA_CUDA_WEIGHTS_H_
#define LONGSPAN_RUNTIME_CUDA_CUDA_WEIGHTS_H_

#include <cstdint>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "kernels/base/dtype.h"
#include "kernels/cuda/device.h"
#include "runtime/attention_context.h"
#include "runtime/model_config.h"
#include "runtime/weights.h"

namespace longspan {

// One layer in device memory: matrices [outputs, inputs] of the compute dtype, vectors float32.
// Null where the architecture has none.
struct CudaLayer {
  float* attention_norm = nullptr;  // [hidden]
  std::byte* qkv = nullptr;         // queries, keys and values one after the other
  float* qkv_bias = nullptr;
  float* query_norm = nullptr;  // [head_dim]
  float* key_norm = nullptr;    // [head_dim]
  std::byte* output = nullptr;  // [hidden, heads*head_dim]
  float* output_bias = nullptr;
  float* mlp_norm = nullptr;
  std::byte* gate_up = nullptr;       // [2*intermediate, hidden]
  std::byte* down = nullptr;          // [hidden, intermediate]
  std::byte* query_factor = nullptr;  // A^T [score_dim, kv_dim]; null: exact scores, or none
  std::byte* key_factor = nullptr;    // B^T [score_dim, kv_dim]
};

// A model's weights, and the factors of its scores, on the GPU.
struct CudaWeights {
  cuda::Buffer buffer;
  DType dtype = DType::kFloat32;
  std::byte* embedding = nullptr;  // [vocab, hidden]
  std::byte* lm_head = nullptr;    // [vocab, hidden]; the embedding when tied
  float* final_norm = nullptr;     // [hidden]
  std::vector<CudaLayer> layers;

  // Bytes that Upload allocates.
  static int64_t Bytes(const ModelWeights& weights, absl::Span<const ScoreFactors> factors,
                       DType dtype);
  static absl::StatusOr<CudaWeights> Upload(const ModelWeights& weights,
                                            absl::Span<const ScoreFactors> factors, DType dtype,
                                            cuda::Stream stream);
};

}  // namespace longspan

#endif  // LONGSPAN_RUNTIME_CUDA_CUDA_WEIGHTS_H_
