#ifndef LONGSPAN_RUNTIME_TRANSFORMER_H_
#define LONGSPAN_RUNTIME_TRANSFORMER_H_

#include <cstdint>
#include <functional>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "runtime/attention_context.h"

namespace longspan {

// Rows of a linear layer's panel in deterministic mode.
inline constexpr int64_t kCpuPanelRows = 64;
inline constexpr int64_t kGpuPanelRows = 128;

// The blocks of a chunk and this rank's rows of it.
PrefillChunk PlanChunk(const AttentionContext& context, int64_t selection_block, KvShard* cache,
                       Range tokens, int64_t capacity);

// Called with a layer's queries [rows, heads, head_dim] and keys [rows, kv_heads, head_dim] before
// RoPE, before they are attended to: in prefill of the rows of the blocks that this rank owns; in
// decode, on the CPU, of all tokens. For calibration and statistics.
using QueryKeyObserver =
    std::function<void(int64_t layer, const float* queries, const float* keys, int64_t rows)>;

// The decoder of one rank: linear layers for the tokens it computes, attention over all ranks. On
// the CPU (cpu_transformer.h) or a GPU (cuda/cuda_transformer.h).
class Transformer {
 public:
  // Which rows of a chunk must leave the last layer; for the others it only computes keys and
  // values.
  enum class Outputs { kNone, kLastBlock, kAll };

  virtual ~Transformer() = default;

  // Runs the chunk's own tokens through all layers and fills the cache. tokens: ids of the chunk
  // [chunk.tokens.size()]. The last layer then has put out the rows of
  // `outputs` that this rank owns. Collective.
  absl::Status Prefill(const PrefillChunk& chunk, absl::Span<const int32_t> tokens,
                       Outputs outputs);
  // The same in steps, for calibration: the embeddings, then each layer. Between them
  // SwapHidden exchanges the residual stream [rows, hidden] for that of another chunk.
  virtual absl::Status EmbedChunk(const PrefillChunk& chunk, absl::Span<const int32_t> tokens) = 0;
  virtual absl::Status PrefillLayer(int64_t layer, const PrefillChunk& chunk, Outputs outputs) = 0;
  virtual absl::Status SwapHidden(std::vector<float>* hidden) = 0;
  // Runs one token of each sequence through all layers, on every rank, and appends it to the
  // caches. The last layer then has put out one row a token, equal on all ranks. Collective.
  virtual absl::Status Decode(absl::Span<const DecodeToken> tokens,
                              absl::Span<const int32_t> ids) = 0;

  // Logits of rows [first, first + count) of the last layer's output: [count, vocab].
  virtual absl::StatusOr<std::vector<float>> Logits(int64_t first, int64_t count) = 0;
  // LikeliestToken (sampling.h) of each of these rows, without their logits leaving the device.
  virtual absl::StatusOr<std::vector<int32_t>> LikeliestTokens(int64_t first, int64_t count);

  void set_observer(QueryKeyObserver observer) { observer_ = std::move(observer); }

 protected:
  explicit Transformer(int64_t num_layers) : num_layers_(num_layers) {}
  // Waits until what was begun is done.
  virtual absl::Status Finish() { return absl::OkStatus(); }
  const QueryKeyObserver& observer() const { return observer_; }

 private:
  int64_t num_layers_;
  QueryKeyObserver observer_;
};

}  // namespace longspan

#endif  // LONGSPAN_RUNTIME_TRANSFORMER_H_
