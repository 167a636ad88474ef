#include "runtime/cpu_transformer.h"

#include <algorithm>
#include <utility>

#include "kernels/base/convert.h"
#include "kernels/base/status_macros.h"
#include "kernels/linear.h"
#include "kernels/norm.h"
#include "runtime/esa_attention.h"
#include "runtime/kv_store.h"

namespace longspan {
namespace {

std::vector<float> Floats(const Tensor& tensor) {
  if (tensor.data == nullptr) return {};
  std::vector<float> values(tensor.num_elements());
  ConvertToFloat(tensor.data, tensor.dtype, tensor.num_elements(), values.data());
  return values;
}

}  // namespace

CpuTransformer::CpuTransformer(const ModelConfig& config, const ModelWeights& weights,
                               const AttentionContext& attention)
    : Transformer(config.num_layers), config_(config), weights_(weights), attention_(attention) {
  for (const LayerWeights& layer : weights.layers) {
    vectors_.push_back({Floats(layer.attention_norm), Floats(layer.mlp_norm),
                        Floats(layer.query_norm), Floats(layer.key_norm), Floats(layer.query_bias),
                        Floats(layer.key_bias), Floats(layer.value_bias),
                        Floats(layer.output_bias)});
  }
  final_norm_ = Floats(weights.final_norm);
}

void CpuTransformer::Embed(absl::Span<const int32_t> ids, float* rows) const {
  const int64_t hidden = config_.hidden_size;
  const Tensor& table = weights_.embedding;
  for (size_t i = 0; i < ids.size(); ++i) {
    const auto* row =
        static_cast<const std::byte*>(table.data) + ids[i] * hidden * SizeOf(table.dtype);
    ConvertToFloat(row, table.dtype, hidden, rows + static_cast<int64_t>(i) * hidden);
  }
}

void CpuTransformer::Apply(const Tensor& weight, const float* x, int64_t rows, Stage stage,
                           bool accumulate, float* y) const {
  LinearArgs args;
  args.x = x;
  args.rows = rows;
  args.in = weight.shape[1];
  args.weight = weight.data;
  args.dtype = weight.dtype;
  args.out = weight.shape[0];
  args.y = y;
  args.accumulate = accumulate;
  stage == Stage::kDecode ? LinearFewRows(args) : Linear(args, attention_.panel_rows);
}

void CpuTransformer::Project(const Tensor& weight, int64_t rows, Stage stage,
                             std::vector<float>* y) const {
  y->resize(rows * weight.shape[0]);
  Apply(weight, normed_.data(), rows, stage, /*accumulate=*/false, y->data());
}

void CpuTransformer::ProjectHeads(const Tensor& weight, const std::vector<float>& bias,
                                  const std::vector<float>& norm, int64_t rows, Stage stage,
                                  std::vector<float>* y) const {
  Project(weight, rows, stage, y);
  if (!bias.empty()) AddBias(bias.data(), rows, weight.shape[0], y->data());
  if (norm.empty()) return;
  RmsNorm(y->data(), norm.data(), rows * weight.shape[0] / config_.head_dim, config_.head_dim,
          static_cast<float>(config_.rms_norm_eps), y->data());
}

void CpuTransformer::ProjectOutput(int64_t layer, int64_t rows, Stage stage) {
  Apply(weights_.layers[layer].output, attended_.data(), rows, stage, /*accumulate=*/true,
        x_.data());
  const std::vector<float>& bias = vectors_[layer].output_bias;
  if (!bias.empty()) AddBias(bias.data(), rows, config_.hidden_size, x_.data());
}

void CpuTransformer::Normalize(const std::vector<float>& weight, int64_t rows) {
  normed_.resize(rows * config_.hidden_size);
  RmsNorm(x_.data(), weight.data(), rows, config_.hidden_size,
          static_cast<float>(config_.rms_norm_eps), normed_.data());
}

void CpuTransformer::Mlp(int64_t layer, int64_t rows, Stage stage) {
  const LayerWeights& weights = weights_.layers[layer];
  Normalize(vectors_[layer].mlp_norm, rows);
  Project(weights.gate, rows, stage, &gate_);
  Project(weights.up, rows, stage, &up_);
  SwiGlu(gate_.data(), up_.data(), static_cast<int64_t>(gate_.size()));
  Apply(weights.down, gate_.data(), rows, stage, /*accumulate=*/true, x_.data());
}

absl::Status CpuTransformer::EmbedChunk(const PrefillChunk& chunk,
                                        absl::Span<const int32_t> tokens) {
  const int64_t hidden = config_.hidden_size;
  x_.assign(chunk.rows * hidden, 0.0f);
  for (const PrefillBlock& block : chunk.blocks) {
    if (block.rank != attention_.communicator->rank()) continue;
    Embed(tokens.subspan(block.tokens.begin - chunk.tokens.begin, block.tokens.size()),
          x_.data() + block.row * hidden);
  }
  return absl::OkStatus();
}

absl::Status CpuTransformer::SwapHidden(std::vector<float>* hidden) {
  x_.swap(*hidden);
  return absl::OkStatus();
}

absl::Status CpuTransformer::PrefillLayer(int64_t layer, const PrefillChunk& chunk,
                                          Outputs outputs) {
  const PhaseSpan span(attention_.phases, Phase::kLinear);
  const int64_t hidden = config_.hidden_size;
  const LayerWeights& weights = weights_.layers[layer];
  const LayerVectors& vectors = vectors_[layer];
  absl::Span<const PrefillBlock> blocks = chunk.blocks;
  int64_t rows = chunk.rows;
  Normalize(vectors.attention_norm, rows);
  ProjectHeads(weights.key, vectors.key_bias, vectors.key_norm, rows, Stage::kPrefill, &key_);
  ProjectHeads(weights.value, vectors.value_bias, {}, rows, Stage::kPrefill, &value_);
  LONGSPAN_RETURN_IF_ERROR(StoreChunk(attention_, layer, chunk, key_.data(), value_.data()));
  int64_t first_row = 0;
  if (outputs != Outputs::kAll) {
    blocks = outputs == Outputs::kNone ? blocks.subspan(blocks.size()) : blocks.last(1);
    const bool own = !blocks.empty() && blocks[0].rank == attention_.communicator->rank();
    first_row = own ? blocks[0].row : rows;
    rows -= first_row;
    x_.erase(x_.begin(), x_.begin() + first_row * hidden);
    normed_.erase(normed_.begin(), normed_.begin() + first_row * hidden);
    if (blocks.empty()) return absl::OkStatus();
  }
  ProjectHeads(weights.query, vectors.query_bias, vectors.query_norm, rows, Stage::kPrefill,
               &query_);
  if (observer() != nullptr) {
    observer()(layer, query_.data(), key_.data() + first_row * attention_.shape.kv_dim(), rows);
  }
  attended_.assign(rows * attention_.shape.query_dim(), 0.0f);
  LONGSPAN_RETURN_IF_ERROR(AttendBlocks(attention_, layer, chunk.cache, blocks, first_row,
                                        query_.data(), attended_.data()));
  ProjectOutput(layer, rows, Stage::kPrefill);
  Mlp(layer, rows, Stage::kPrefill);
  return absl::OkStatus();
}

absl::Status CpuTransformer::Decode(absl::Span<const DecodeToken> tokens,
                                    absl::Span<const int32_t> ids) {
  const auto rows = static_cast<int64_t>(tokens.size());
  const int64_t kv_dim = attention_.shape.kv_dim();
  x_.resize(rows * config_.hidden_size);
  Embed(ids, x_.data());
  const PhaseSpan span(attention_.phases, Phase::kLinear);
  for (int64_t layer = 0; layer < config_.num_layers; ++layer) {
    const LayerWeights& weights = weights_.layers[layer];
    const LayerVectors& vectors = vectors_[layer];
    Normalize(vectors.attention_norm, rows);
    ProjectHeads(weights.query, vectors.query_bias, vectors.query_norm, rows, Stage::kDecode,
                 &query_);
    ProjectHeads(weights.key, vectors.key_bias, vectors.key_norm, rows, Stage::kDecode, &key_);
    ProjectHeads(weights.value, vectors.value_bias, {}, rows, Stage::kDecode, &value_);
    for (int64_t t = 0; t < rows; ++t) {
      StoreToken(attention_, layer, tokens[t], key_.data() + t * kv_dim,
                 value_.data() + t * kv_dim);
    }
    if (observer() != nullptr) observer()(layer, query_.data(), key_.data(), rows);
    attended_.resize(rows * attention_.shape.query_dim());
    LONGSPAN_RETURN_IF_ERROR(
        AttendTokens(attention_, layer, tokens, query_.data(), attended_.data()));
    ProjectOutput(layer, rows, Stage::kDecode);
    Mlp(layer, rows, Stage::kDecode);
  }
  return absl::OkStatus();
}

absl::StatusOr<std::vector<float>> CpuTransformer::Logits(int64_t first, int64_t count) {
  std::vector<float> normed(count * config_.hidden_size);
  RmsNorm(x_.data() + first * config_.hidden_size, final_norm_.data(), count, config_.hidden_size,
          static_cast<float>(config_.rms_norm_eps), normed.data());
  std::vector<float> logits(count * config_.vocab_size);
  Apply(weights_.lm_head, normed.data(), count, Stage::kDecode, /*accumulate=*/false,
        logits.data());
  return logits;
}

}  // namespace longspan
