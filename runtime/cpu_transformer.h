#ifndef LONGSPAN_RUNTIME_CPU_TRANSFORMER_H_
#define LONGSPAN_RUNTIME_CPU_TRANSFORMER_H_

#include <cstdint>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "runtime/attention_context.h"
#include "runtime/model_config.h"
#include "runtime/transformer.h"
#include "runtime/weights.h"

namespace longspan {

// In float32.
class CpuTransformer final : public Transformer {
 public:
  // All referenced objects must outlive the transformer.
  CpuTransformer(const ModelConfig& config, const ModelWeights& weights,
                 const AttentionContext& attention);

  absl::Status EmbedChunk(const PrefillChunk& chunk, absl::Span<const int32_t> tokens) override;
  absl::Status PrefillLayer(int64_t layer, const PrefillChunk& chunk, Outputs outputs) override;
  absl::Status SwapHidden(std::vector<float>* hidden) override;
  absl::Status Decode(absl::Span<const DecodeToken> tokens, absl::Span<const int32_t> ids) override;
  absl::StatusOr<std::vector<float>> Logits(int64_t first, int64_t count) override;

 private:
  // Of one layer; empty where the architecture has none.
  struct LayerVectors {
    std::vector<float> attention_norm, mlp_norm, query_norm, key_norm;
    std::vector<float> query_bias, key_bias, value_bias, output_bias;
  };
  enum class Stage { kPrefill, kDecode };

  void Embed(absl::Span<const int32_t> ids, float* rows) const;
  void Apply(const Tensor& weight, const float* x, int64_t rows, Stage stage, bool accumulate,
             float* y) const;
  void Normalize(const std::vector<float>& weight, int64_t rows);
  // y [rows, out] of the normalised rows.
  void Project(const Tensor& weight, int64_t rows, Stage stage, std::vector<float>* y) const;
  // The same with a bias, and a norm of each head, as far as there are.
  void ProjectHeads(const Tensor& weight, const std::vector<float>& bias,
                    const std::vector<float>& norm, int64_t rows, Stage stage,
                    std::vector<float>* y) const;
  // x_ += W attended_ and bias.
  void ProjectOutput(int64_t layer, int64_t rows, Stage stage);
  void Mlp(int64_t layer, int64_t rows, Stage stage);

  const ModelConfig& config_;
  const ModelWeights& weights_;
  const AttentionContext& attention_;
  std::vector<LayerVectors> vectors_;
  std::vector<float> final_norm_;

  std::vector<float> x_;                    // [rows, hidden] the residual stream
  std::vector<float> normed_;               // [rows, hidden]
  std::vector<float> query_, key_, value_;  // [rows, heads or kv_heads, head_dim]
  std::vector<float> attended_;             // [rows, heads, head_dim]
  std::vector<float> gate_, up_;            // [rows, intermediate]
};

}  // namespace longspan

#endif  // LONGSPAN_RUNTIME_CPU_TRANSFORMER_H_
