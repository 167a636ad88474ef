#ifndef LONGSPAN_RUNTIME_TRANSFORMER_H_
#define LONGSPAN_RUNTIME_TRANSFORMER_H_

#include <cstdint>
#include <functional>
#include <vector>

#include "absl/status/status.h"
#include "absl/types/span.h"
#include "runtime/attention_context.h"
#include "runtime/model_config.h"
#include "runtime/weights.h"

namespace longspan {

// Rows of a linear layer's panel in deterministic mode.
inline constexpr int64_t kPanelRows = 64;

// The blocks of a chunk and this rank's rows of it.
PrefillChunk PlanChunk(const AttentionContext& context, int64_t selection_block, KvShard* cache,
                       Range tokens, int64_t capacity);

// Called with a layer's queries [rows, heads, head_dim] and keys [rows, kv_heads, head_dim] before
// RoPE, of the rows of the blocks that this rank owns; for calibration.
using QueryKeyObserver =
    std::function<void(int64_t layer, const float* queries, const float* keys, int64_t rows)>;

// The decoder of one rank: linear layers for the tokens it computes, attention over all ranks.
class Transformer {
 public:
  // All referenced objects must outlive the transformer.
  Transformer(const ModelConfig& config, const ModelWeights& weights,
              const AttentionContext& attention);

  void set_observer(QueryKeyObserver observer) { observer_ = std::move(observer); }

  // Which rows of a chunk must leave the last layer; for the others it only computes keys and
  // values.
  enum class Outputs { kNone, kLastBlock, kAll };

  // Runs the chunk's own tokens through all layers and fills the cache. tokens: ids of the chunk
  // [chunk.tokens.size()]. The last layer then has put out the rows of
  // `outputs` that this rank owns. Collective.
  absl::Status Prefill(const PrefillChunk& chunk, absl::Span<const int32_t> tokens,
                       Outputs outputs);
  // The same in steps, for calibration: the embeddings, then each layer. Between them
  // SwapHidden exchanges the residual stream [rows, hidden] for that of another chunk.
  void EmbedChunk(const PrefillChunk& chunk, absl::Span<const int32_t> tokens);
  absl::Status PrefillLayer(int64_t layer, const PrefillChunk& chunk, Outputs outputs);
  void SwapHidden(std::vector<float>* hidden) { x_.swap(*hidden); }
  // Runs one token of each sequence through all layers, on every rank, and appends it to the
  // caches. The last layer then has put out one row a token, equal on all ranks. Collective.
  absl::Status Decode(absl::Span<const DecodeToken> tokens, absl::Span<const int32_t> ids);

  // Logits of rows [first, first + count) of the last layer's output: [count, vocab].
  std::vector<float> Logits(int64_t first, int64_t count) const;

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
  QueryKeyObserver observer_;

  std::vector<float> x_;                    // [rows, hidden] the residual stream
  std::vector<float> normed_;               // [rows, hidden]
  std::vector<float> query_, key_, value_;  // [rows, heads or kv_heads, head_dim]
  std::vector<float> attended_;             // [rows, heads, head_dim]
  std::vector<float> gate_, up_;            // [rows, intermediate]
};

}  // namespace longspan

#endif  // LONGSPAN_RUNTIME_TRANSFORMER_H_
