#ifndef LONGSPAN_RUNTIME_CUDA_CUDA_TRANSFORMER_H_
#define LONGSPAN_RUNTIME_CUDA_CUDA_TRANSFORMER_H_

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "runtime/config.h"
#include "runtime/cuda/cuda_attention.h"
#include "runtime/cuda/cuda_run.h"
#include "runtime/model_config.h"
#include "runtime/transformer.h"
#include "runtime/weights.h"

namespace longspan {

// On a GPU, in float32 or bfloat16 with a residual stream of float32. The cache's pages are in
// device memory. A decode step is one CUDA graph, unless the run is deterministic or the
// communicator has to wait on the host.
class CudaTransformer final : public Transformer {
 public:
  // Bytes of device memory that Create takes beside the weights: each allocation's, but for what
  // CUDA and libraries take for themselves.
  static int64_t Bytes(const CudaSizes& sizes);

  // Uploads the weights; `weights` is not needed afterwards. `config` is resolved, its
  // max_model_len too. attention and gpu must outlive the transformer. ResourceExhausted: there is
  // no room on the GPU. Others: as CheckCudaLimits.
  static absl::StatusOr<std::unique_ptr<CudaTransformer>> Create(const Config& config,
                                                                 const ModelConfig& model,
                                                                 const ModelWeights& weights,
                                                                 const AttentionContext& attention,
                                                                 Gpu* gpu);

  absl::Status EmbedChunk(const PrefillChunk& chunk, absl::Span<const int32_t> tokens) override;
  absl::Status PrefillLayer(int64_t layer, const PrefillChunk& chunk, Outputs outputs) override;
  absl::Status SwapHidden(std::vector<float>* hidden) override;
  absl::Status Decode(absl::Span<const DecodeToken> tokens, absl::Span<const int32_t> ids) override;
  absl::StatusOr<std::vector<float>> Logits(int64_t first, int64_t count) override;
  absl::StatusOr<std::vector<int32_t>> LikeliestTokens(int64_t first, int64_t count) override;

 private:
  // A decode step, and where its time goes if that was asked for.
  struct StepGraph {
    cuda::Graph graph;
    std::optional<CudaPhases> phases;
    CommunicatorStats calls;  // that it replays
  };

  explicit CudaTransformer(const ModelConfig& config)
      : Transformer(config.num_layers), config_(config) {}

  // Of a pass that is no graph, until it is finished, if anybody asks where its time goes.
  void BeginPhases();
  absl::Status Finish() override;
  absl::Status Embed(int64_t rows);
  absl::Status Normalize(const float* weight, const float* rows, int64_t count);
  // Queries, keys and values of rows that `normed` holds, from row `first` on.
  absl::Status ProjectQkv(const CudaLayer& layer, CudaStage stage, int64_t rows);
  absl::Status SplitQkv(const CudaLayer& layer, int64_t rows);
  absl::Status ProjectKeysAndValues(const CudaLayer& layer, int64_t rows);
  absl::Status ProjectQueries(const CudaLayer& layer, int64_t first, int64_t rows);
  absl::Status ProjectOutput(const CudaLayer& layer, CudaStage stage, int64_t rows);
  absl::Status Mlp(const CudaLayer& layer, CudaStage stage, int64_t rows);
  // Whether a decode step's products of so many rows also do what is around them.
  bool Fuses(int64_t rows) const;
  // A product of rows of x_ that are normed first, in one launch where they are few.
  absl::Status MultiplyNormed(const float* norm, const float* rows, int64_t count,
                              const std::byte* weight, int64_t out, void* y, DType y_dtype,
                              cuda::LinearFusion fusion);
  // The decode step's layer before and after attention, in x_'s rows.
  absl::Status FusedQkv(const CudaLayer& layer, int64_t rows);
  absl::Status FusedOutput(const CudaLayer& layer, int64_t rows);
  absl::Status FusedMlp(const CudaLayer& layer, int64_t rows);
  absl::Status Observe(int64_t layer, int64_t first_row, int64_t rows);
  absl::StatusOr<CudaStep> UploadStep(absl::Span<const DecodeToken> tokens,
                                      absl::Span<const int32_t> ids);
  absl::Status RunStep(const CudaStep& step);
  absl::StatusOr<StepGraph*> GraphOf(const CudaStep& step);
  // To run_.buffers.logits; at most kLogitRows rows.
  absl::Status ComputeLogits(int64_t first, int64_t rows);

  const ModelConfig& config_;
  CudaRun run_;
  float* x_ = nullptr;  // of run_.buffers.x, the rows that the last layer put out
  int64_t rows_ = 0;
  std::map<std::pair<int, bool>, StepGraph> graphs_;  // by rows, and whether with phases
  std::optional<CudaPhases> phases_;                  // of passes that are no graph
  CommunicatorStats calls_before_;                    // such a pass
};

}  // namespace longspan

#endif  // LONGSPAN_RUNTIME_CUDA_CUDA_TRANSFORMER_H_
