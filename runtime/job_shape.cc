#include "runtime/job_shape.h"

#include <algorithm>

#include "runtime/layer_collectives.h"
#include "runtime/model.h"
#include "runtime/transformer.h"

namespace longspan {

DType WeightDType(const Config& config, const ModelConfig& model) {
  if (config.device != "cuda") return model.dtype;
  return config.dtype == "bfloat16" ? DType::kBFloat16 : DType::kFloat32;
}

ModelShape MakeModelShape(const Config& config, const ModelConfig& model, int ranks) {
  const KvShape kv = MakeKvShape(config, model);
  ModelShape shape;
  shape.layers = model.num_layers;
  shape.hidden = model.hidden_size;
  shape.intermediate = model.intermediate_size;
  shape.vocab = model.vocab_size;
  shape.heads = model.num_heads;
  shape.kv_heads = model.num_kv_heads;
  shape.head_dim = model.head_dim;
  shape.weight_bytes = SizeOf(WeightDType(config, model));
  shape.cache_bytes = SizeOf(kv.dtype);
  shape.score_bytes = SizeOf(kv.score_dtype);
  shape.sizes = {config.esa.initial_tokens, config.esa.local_tokens,
                 config.attention == Attention::kDense};
  shape.top_k = config.attention == Attention::kEsa ? config.esa.top_k : 0;
  shape.score_dim = kv.score_dim;
  shape.score_query_dim = MakeVoters(config, model).query_dim();
  shape.block_tokens = config.esa.selection_block;
  shape.chunk_tokens = config.prefill_chunk_tokens;
  shape.ranks = ranks;
  return shape;
}

JobShape MakeJobShape(const Config& config, const ModelConfig& model, int ranks) {
  Config settled = config;
  const bool on_gpu = config.device == "cuda";
  if (settled.dtype == "auto") settled.dtype = on_gpu ? "bfloat16" : "float32";
  const AttentionContext context = MakeAttentionContext(settled, model, ranks);
  JobShape job;
  job.model = MakeModelShape(settled, model, ranks);
  job.layer = LayerShapeOf(context);
  job.merge = context.merge;
  if (!on_gpu) return job;
  job.backend = Backend::kGpu;
  job.panel_rows = std::max<int64_t>(1, context.panel_rows);
  // Queries of fp8 score keys are bfloat16.
  const DType query =
      context.kv.score_dtype == DType::kFloat8E4M3 ? DType::kBFloat16 : context.kv.score_dtype;
  job.layer.query_row_bytes = context.voters.query_dim() * SizeOf(query);
  job.output_row_bytes = context.shape.query_dim() * job.model.weight_bytes;
  return job;
}

}  // namespace longspan
