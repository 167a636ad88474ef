#include "runtime/cuda/cuda_transformer.h"

#include <algorithm>
#include <utility>

#include "absl/cleanup/cleanup.h"
#include "kernels/base/status_macros.h"
#include "kernels/cuda/embed.h"
#include "kernels/cuda/norm.h"
#include "kernels/cuda/sampling.h"
#include "kernels/cuda/split_heads.h"
#include "runtime/cuda/cuda_limits.h"
#include "runtime/rope_config.h"

namespace longspan {
namespace {

// A pass that has ended, to who asked.
absl::Status Report(const CudaPhases& phases, CommunicatorStats calls, PhaseClock* clock) {
  LONGSPAN_ASSIGN_OR_RETURN(const CudaPhases::Times times, phases.Read());
  if (const auto keys = calls.find("ring.keys"); keys != calls.end()) {
    keys->second.seconds_waited = times.ring_s;
  }
  clock->AddGpu(times.phases, calls);
  return absl::OkStatus();
}

}  // namespace

absl::Status Product(CudaRun* run, CudaStage stage, const void* x, int64_t rows, int64_t in,
                     const void* weight, int64_t out, void* y, DType y_dtype, bool accumulate) {
  const DType dtype = run->sizes.dtype;
  cuda::LinearArgs args;
  args.in = in;
  args.weight = weight;
  args.dtype = dtype;
  args.out = out;
  args.y_dtype = y_dtype;
  args.accumulate = accumulate;
  const bool deterministic = run->context->deterministic;
  const int64_t step =
      deterministic && stage == CudaStage::kPrefill ? run->context->panel_rows : rows;
  for (int64_t row = 0; row < rows; row += step) {
    args.x = static_cast<const std::byte*>(x) + row * in * SizeOf(dtype);
    args.rows = std::min(step, rows - row);
    args.y = static_cast<std::byte*>(y) + row * out * SizeOf(y_dtype);
    LONGSPAN_RETURN_IF_ERROR(deterministic && stage == CudaStage::kDecode
                                 ? cuda::LinearFewRows(args, run->stream())
                                 : cuda::Linear(args, &*run->linear, run->stream()));
  }
  return absl::OkStatus();
}

int64_t CudaTransformer::Bytes(const CudaSizes& sizes) {
  Arena arena, shared;
  CudaBuffers().Lay(sizes, &arena, &shared);
  int64_t bytes = Granules(arena.bytes()) + Granules(shared.bytes()) +
                  Granules(cuda::RopeAngles::Bytes(sizes.shape.head_dim / 2, sizes.rope_coarse)) +
                  Granules(cuda::LinearPlans::Bytes());
  if (sizes.top_k > 0) {
    const int blocks = sizes.sharers > 1 ? sizes.multiprocessors : 0;
    bytes += Granules(
        cuda::SelectWorkspace::Bytes(static_cast<int>(sizes.blocks), sizes.own_tokens, blocks));
    bytes += Granules(
        cuda::SelectWorkspace::Bytes(static_cast<int>(sizes.sequences), sizes.own_keys, blocks));
  }
  return bytes;
}

absl::StatusOr<std::unique_ptr<CudaTransformer>> CudaTransformer::Create(
    const Config& config, const ModelConfig& model, const ModelWeights& weights,
    const AttentionContext& attention, Gpu* gpu) {
  std::unique_ptr<CudaTransformer> transformer(new CudaTransformer(model));
  CudaRun& run = transformer->run_;
  run.context = &attention;
  run.gpu = gpu;
  run.sizes = CudaSizes::Of(config, model, attention, gpu->sharers, gpu->multiprocessors());
  LONGSPAN_RETURN_IF_ERROR(CheckCudaLimits(config, run.sizes, gpu->info));
  Arena plan, shared_plan;
  run.buffers.Lay(run.sizes, &plan, &shared_plan);
  // Collective, so before all that a rank can fail at by itself.
  LONGSPAN_ASSIGN_OR_RETURN(std::byte* const shared_memory,
                            gpu->communicator->AllocateShared(shared_plan.bytes()));
  LONGSPAN_ASSIGN_OR_RETURN(
      run.weights, CudaWeights::Upload(weights, attention.factors, run.sizes.dtype, gpu->s()));
  LONGSPAN_ASSIGN_OR_RETURN(run.memory, cuda::Buffer::Allocate(plan.bytes()));
  Arena arena(run.memory.data()), shared(shared_memory);
  run.buffers.Lay(run.sizes, &arena, &shared);
  LONGSPAN_RETURN_IF_ERROR(cuda::Fill(run.memory.data(), 0, plan.bytes(), gpu->s()));
  if (shared_plan.bytes() > 0) {
    LONGSPAN_RETURN_IF_ERROR(cuda::Fill(shared_memory, 0, shared_plan.bytes(), gpu->s()));
  }
  LONGSPAN_ASSIGN_OR_RETURN(run.rope,
                            cuda::RopeAngles::Create(InverseFrequencies(model.rope, model.head_dim),
                                                     run.sizes.rope_coarse));
  LONGSPAN_ASSIGN_OR_RETURN(run.linear, cuda::LinearPlans::Create());
  if (run.sizes.top_k > 0) {
    const int blocks = run.sizes.sharers > 1 ? run.sizes.multiprocessors : 0;
    LONGSPAN_ASSIGN_OR_RETURN(run.prefill_select,
                              cuda::SelectWorkspace::Create(static_cast<int>(run.sizes.blocks),
                                                            run.sizes.own_tokens, blocks));
    LONGSPAN_ASSIGN_OR_RETURN(run.decode_select,
                              cuda::SelectWorkspace::Create(static_cast<int>(run.sizes.sequences),
                                                            run.sizes.own_keys, blocks));
  }
  if (!run.reads_pages()) {
    LONGSPAN_ASSIGN_OR_RETURN(run.ring_ends,
                              cuda::PinnedBuffer::Allocate(run.sizes.num_ring_ends() *
                                                           static_cast<int64_t>(sizeof(uint32_t))));
  }
  transformer->x_ = run.buffers.x;
  LONGSPAN_RETURN_IF_ERROR(cuda::Synchronize(gpu->s()));
  return transformer;
}

absl::Status CudaTransformer::Finish() {
  CudaPhases* const phases = std::exchange(run_.phases, nullptr);
  if (phases != nullptr) phases->End();
  LONGSPAN_RETURN_IF_ERROR(run_.gpu->communicator->Synchronize(run_.stream()));
  if (phases == nullptr) return absl::OkStatus();
  return Report(*phases, CallsSince(calls_before_, run_.gpu->communicator->stats()),
                run_.context->phases);
}

void CudaTransformer::BeginPhases() {
  if (run_.context->phases == nullptr) return;
  if (!phases_) phases_.emplace(run_.stream());
  calls_before_ = run_.gpu->communicator->stats();
  run_.phases = &*phases_;
  run_.phases->Begin();
}

absl::Status CudaTransformer::Embed(int64_t rows) {
  x_ = run_.buffers.x;
  rows_ = rows;
  return cuda::Embed(
      {run_.weights.embedding, run_.sizes.dtype, run_.buffers.ids, rows, config_.hidden_size, x_},
      run_.stream());
}

absl::Status CudaTransformer::Normalize(const float* weight, const float* rows, int64_t count) {
  return cuda::RmsNorm(
      {rows, weight, count, config_.hidden_size, static_cast<float>(config_.rms_norm_eps),
       run_.buffers.normed, run_.sizes.dtype},
      run_.stream());
}

absl::Status CudaTransformer::ProjectQkv(const CudaLayer& layer, CudaStage stage, int64_t rows) {
  CudaBuffers& buffers = run_.buffers;
  LONGSPAN_RETURN_IF_ERROR(Product(&run_, stage, buffers.normed, rows, config_.hidden_size,
                                   layer.qkv, run_.sizes.qkv(), buffers.stacked, DType::kFloat32));
  return SplitQkv(layer, rows);
}

absl::Status CudaTransformer::SplitQkv(const CudaLayer& layer, int64_t rows) {
  CudaBuffers& buffers = run_.buffers;
  return cuda::SplitHeads(
      {run_.sizes.shape, buffers.stacked, rows, layer.qkv_bias, layer.query_norm, layer.key_norm,
       static_cast<float>(config_.rms_norm_eps), buffers.queries, buffers.keys, buffers.values},
      run_.stream());
}

absl::Status CudaTransformer::ProjectKeysAndValues(const CudaLayer& layer, int64_t rows) {
  CudaBuffers& buffers = run_.buffers;
  const int64_t query_dim = run_.sizes.shape.query_dim();
  const std::byte* weight = layer.qkv + query_dim * config_.hidden_size * SizeOf(run_.sizes.dtype);
  LONGSPAN_RETURN_IF_ERROR(Product(&run_, CudaStage::kPrefill, buffers.normed, rows,
                                   config_.hidden_size, weight, 2 * run_.sizes.shape.kv_dim(),
                                   buffers.stacked, DType::kFloat32));
  const float* bias = layer.qkv_bias == nullptr ? nullptr : layer.qkv_bias + query_dim;
  return cuda::SplitHeads(
      {run_.sizes.shape, buffers.stacked, rows, bias, nullptr, layer.key_norm,
       static_cast<float>(config_.rms_norm_eps), nullptr, buffers.keys, buffers.values},
      run_.stream());
}

absl::Status CudaTransformer::ProjectQueries(const CudaLayer& layer, int64_t first, int64_t rows) {
  CudaBuffers& buffers = run_.buffers;
  AttentionShape shape = run_.sizes.shape;
  const std::byte* x = buffers.normed + first * config_.hidden_size * SizeOf(run_.sizes.dtype);
  LONGSPAN_RETURN_IF_ERROR(Product(&run_, CudaStage::kPrefill, x, rows, config_.hidden_size,
                                   layer.qkv, shape.query_dim(), buffers.stacked, DType::kFloat32));
  shape.kv_heads = 0;  // there are none among these
  return cuda::SplitHeads(
      {shape, buffers.stacked, rows, layer.qkv_bias, layer.query_norm, nullptr,
       static_cast<float>(config_.rms_norm_eps), buffers.queries, nullptr, nullptr},
      run_.stream());
}

absl::Status CudaTransformer::ProjectOutput(const CudaLayer& layer, CudaStage stage, int64_t rows) {
  LONGSPAN_RETURN_IF_ERROR(Product(&run_, stage, run_.buffers.attended, rows,
                                   run_.sizes.shape.query_dim(), layer.output, config_.hidden_size,
                                   x_, DType::kFloat32, true));
  if (layer.output_bias == nullptr) return absl::OkStatus();
  return cuda::AddBias({layer.output_bias, rows, config_.hidden_size, x_, DType::kFloat32},
                       run_.stream());
}

absl::Status CudaTransformer::Mlp(const CudaLayer& layer, CudaStage stage, int64_t rows) {
  CudaBuffers& buffers = run_.buffers;
  const DType dtype = run_.sizes.dtype;
  const int64_t intermediate = config_.intermediate_size;
  LONGSPAN_RETURN_IF_ERROR(Normalize(layer.mlp_norm, x_, rows));
  LONGSPAN_RETURN_IF_ERROR(Product(&run_, stage, buffers.normed, rows, config_.hidden_size,
                                   layer.gate_up, 2 * intermediate, buffers.gate_up, dtype));
  cuda::SwiGluArgs args;
  args.gate = buffers.gate_up;
  args.up = buffers.gate_up + intermediate * SizeOf(dtype);
  args.dtype = dtype;
  args.count = intermediate;
  args.out = buffers.activated;
  args.out_dtype = dtype;
  args.rows = rows;
  args.stride = 2 * intermediate;
  LONGSPAN_RETURN_IF_ERROR(cuda::SwiGlu(args, run_.stream()));
  return Product(&run_, stage, buffers.activated, rows, intermediate, layer.down,
                 config_.hidden_size, x_, DType::kFloat32, true);
}

bool CudaTransformer::Fuses(int64_t rows) const {
  if (!run_.context->deterministic && rows > cuda::kMaxFewRows) return false;
  // All of the layers' products have as many inputs as x_, or as the heads.
  const CudaBuffers& buffers = run_.buffers;
  cuda::LinearArgs args;
  args.dtype = run_.sizes.dtype;
  args.rows = rows;
  args.x = buffers.normed;
  args.in = config_.hidden_size;
  args.weight = run_.weights.lm_head;
  args.out = std::max({run_.sizes.qkv(), 2 * config_.intermediate_size, config_.vocab_size});
  if (!cuda::LinearFuses(args, {})) return false;
  args.x = buffers.attended;
  args.in = run_.sizes.shape.query_dim();
  args.out = config_.hidden_size;
  return cuda::LinearFuses(args, {});
}

absl::Status CudaTransformer::MultiplyNormed(const float* norm, const float* rows, int64_t count,
                                             const std::byte* weight, int64_t out, void* y,
                                             DType y_dtype, cuda::LinearFusion fusion) {
  cuda::LinearArgs args;
  args.x = rows;
  args.rows = count;
  args.in = config_.hidden_size;
  args.weight = weight;
  args.dtype = run_.sizes.dtype;
  args.out = out;
  args.y = y;
  args.y_dtype = y_dtype;
  fusion.norm = norm;
  fusion.epsilon = static_cast<float>(config_.rms_norm_eps);
  if (!cuda::LinearFuses(args, fusion)) {
    LONGSPAN_RETURN_IF_ERROR(Normalize(norm, rows, count));
    args.x = run_.buffers.normed;
    fusion.norm = nullptr;
  }
  return cuda::LinearFewRows(args, fusion, run_.stream());
}

absl::Status CudaTransformer::FusedQkv(const CudaLayer& layer, int64_t rows) {
  CudaBuffers& buffers = run_.buffers;
  const int64_t qkv = run_.sizes.qkv();
  cuda::LinearFusion fusion;
  if (layer.query_norm == nullptr && layer.key_norm == nullptr) {
    fusion.bias = layer.qkv_bias;
    fusion.kv_dim = run_.sizes.shape.kv_dim();
    fusion.keys = buffers.keys;
    fusion.values = buffers.values;
    return MultiplyNormed(layer.attention_norm, x_, rows, layer.qkv, qkv, buffers.queries,
                          DType::kFloat32, fusion);
  }
  LONGSPAN_RETURN_IF_ERROR(MultiplyNormed(layer.attention_norm, x_, rows, layer.qkv, qkv,
                                          buffers.stacked, DType::kFloat32, fusion));
  return SplitQkv(layer, rows);
}

absl::Status CudaTransformer::FusedOutput(const CudaLayer& layer, int64_t rows) {
  cuda::LinearArgs args;
  args.x = run_.buffers.attended;
  args.rows = rows;
  args.in = run_.sizes.shape.query_dim();
  args.weight = layer.output;
  args.dtype = run_.sizes.dtype;
  args.out = config_.hidden_size;
  args.y = x_;
  args.accumulate = true;
  cuda::LinearFusion fusion;
  fusion.bias = layer.output_bias;
  return cuda::LinearFewRows(args, fusion, run_.stream());
}

absl::Status CudaTransformer::FusedMlp(const CudaLayer& layer, int64_t rows) {
  cuda::LinearFusion fusion;
  fusion.swiglu = true;
  LONGSPAN_RETURN_IF_ERROR(MultiplyNormed(layer.mlp_norm, x_, rows, layer.gate_up,
                                          2 * config_.intermediate_size, run_.buffers.activated,
                                          run_.sizes.dtype, fusion));
  return Product(&run_, CudaStage::kDecode, run_.buffers.activated, rows, config_.intermediate_size,
                 layer.down, config_.hidden_size, x_, DType::kFloat32, true);
}

absl::Status CudaTransformer::EmbedChunk(const PrefillChunk& chunk,
                                         absl::Span<const int32_t> tokens) {
  std::vector<int32_t> ids(chunk.rows, 0);  // of rows that pad a panel, any
  for (const PrefillBlock& block : chunk.blocks) {
    if (block.rank != run_.rank()) continue;
    const int64_t first = block.tokens.begin - chunk.tokens.begin;
    std::copy_n(tokens.begin() + first, block.tokens.size(), ids.begin() + block.row);
  }
  LONGSPAN_CHECK(chunk.rows <= run_.sizes.rows);
  BeginPhases();
  LONGSPAN_RETURN_IF_ERROR(cuda::Copy(run_.buffers.ids, ids.data(),
                                      chunk.rows * static_cast<int64_t>(sizeof(int32_t)),
                                      run_.stream()));
  return Embed(chunk.rows);
}

absl::Status CudaTransformer::PrefillLayer(int64_t layer, const PrefillChunk& chunk,
                                           Outputs outputs) {
  const CudaPhaseSpan span(run_.phases, Phase::kLinear);
  const CudaLayer& weights = run_.weights.layers[layer];
  absl::Span<const PrefillBlock> blocks = chunk.blocks;
  int64_t first_row = 0;
  LONGSPAN_RETURN_IF_ERROR(Normalize(weights.attention_norm, x_, chunk.rows));
  // Products of other widths may have other bits: deterministic runs have the same in all layers.
  if (outputs == Outputs::kAll && !run_.context->deterministic) {
    LONGSPAN_RETURN_IF_ERROR(ProjectQkv(weights, CudaStage::kPrefill, chunk.rows));
    LONGSPAN_RETURN_IF_ERROR(StoreChunkCuda(&run_, layer, chunk));
  } else {
    LONGSPAN_RETURN_IF_ERROR(ProjectKeysAndValues(weights, chunk.rows));
    LONGSPAN_RETURN_IF_ERROR(StoreChunkCuda(&run_, layer, chunk));
    if (outputs != Outputs::kAll) {
      blocks = outputs == Outputs::kNone ? blocks.subspan(blocks.size()) : blocks.last(1);
      const bool own = !blocks.empty() && blocks[0].rank == run_.rank();
      first_row = own ? blocks[0].row : chunk.rows;
    }
    x_ += first_row * config_.hidden_size;
    rows_ = chunk.rows - first_row;
    if (blocks.empty()) return absl::OkStatus();
    LONGSPAN_RETURN_IF_ERROR(ProjectQueries(weights, first_row, rows_));
  }
  if (observer() != nullptr) LONGSPAN_RETURN_IF_ERROR(Observe(layer, first_row, rows_));
  LONGSPAN_RETURN_IF_ERROR(AttendBlocksCuda(&run_, layer, chunk.cache, blocks, first_row));
  LONGSPAN_RETURN_IF_ERROR(ProjectOutput(weights, CudaStage::kPrefill, rows_));
  return Mlp(weights, CudaStage::kPrefill, rows_);
}

absl::Status CudaTransformer::Observe(int64_t layer, int64_t first_row, int64_t rows) {
  const AttentionShape& shape = run_.sizes.shape;
  std::vector<float> queries(rows * shape.query_dim()), keys(rows * shape.kv_dim());
  LONGSPAN_RETURN_IF_ERROR(cuda::Copy(queries.data(), run_.buffers.queries,
                                      rows * shape.query_dim() * 4, run_.stream()));
  LONGSPAN_RETURN_IF_ERROR(cuda::Copy(keys.data(), run_.buffers.keys + first_row * shape.kv_dim(),
                                      rows * shape.kv_dim() * 4, run_.stream()));
  LONGSPAN_RETURN_IF_ERROR(cuda::Synchronize(run_.stream()));
  observer()(layer, queries.data(), keys.data(), rows);
  return absl::OkStatus();
}

absl::Status CudaTransformer::SwapHidden(std::vector<float>* hidden) {
  const int64_t width = config_.hidden_size;
  std::vector<float> mine(rows_ * width);
  LONGSPAN_RETURN_IF_ERROR(cuda::Copy(mine.data(), x_, rows_ * width * 4, run_.stream()));
  LONGSPAN_RETURN_IF_ERROR(cuda::Synchronize(run_.stream()));
  x_ = run_.buffers.x;
  rows_ = static_cast<int64_t>(hidden->size()) / width;
  LONGSPAN_RETURN_IF_ERROR(cuda::Copy(x_, hidden->data(), rows_ * width * 4, run_.stream()));
  hidden->swap(mine);
  return absl::OkStatus();
}

absl::StatusOr<CudaStep> CudaTransformer::UploadStep(absl::Span<const DecodeToken> tokens,
                                                     absl::Span<const int32_t> ids) {
  CudaBuffers& buffers = run_.buffers;
  const auto rows = static_cast<int64_t>(tokens.size());
  LONGSPAN_CHECK(rows <= run_.sizes.sequences);
  Parameters parameters;
  // Of fixed places for all steps of so many rows, whatever their lengths: page tables come last.
  std::vector<cuda::DecodeRow> sequences(rows);
  std::vector<int64_t> num_pages(rows);
  const int64_t table_at = rows * static_cast<int64_t>(sizeof(cuda::DecodeRow) + sizeof(int64_t));
  std::vector<const std::byte*> tables;
  for (int64_t r = 0; r < rows; ++r) {
    sequences[r].position = tokens[r].position;
    const auto* table = reinterpret_cast<const std::byte* const*>(buffers.step + table_at);
    const absl::Span<const PageRef> pages = tokens[r].cache->pages();
    num_pages[r] = static_cast<int64_t>(pages.size());
    sequences[r].pages = table + tables.size();
    for (const PageRef& page : pages) tables.push_back(page->kv.get());
    sequences[r].score_pages = table + tables.size();
    for (const PageRef& page : pages) tables.push_back(page->score_base());
  }
  CudaStep step;
  step.rows = static_cast<int>(rows);
  step.sequences = reinterpret_cast<const cuda::DecodeRow*>(
      buffers.step + parameters.Add<cuda::DecodeRow>(sequences));
  const int64_t pages_at = parameters.Add<int64_t>(num_pages);
  step.num_pages = reinterpret_cast<const int64_t*>(buffers.step + pages_at);
  parameters.Add<const std::byte*>(tables);
  step.tokens = tokens;
  LONGSPAN_RETURN_IF_ERROR(parameters.UploadTo(buffers.step, buffers.step_bytes, run_.stream()));
  LONGSPAN_RETURN_IF_ERROR(cuda::Copy(buffers.ids, ids.data(),
                                      rows * static_cast<int64_t>(sizeof(int32_t)), run_.stream()));
  return step;
}

absl::Status CudaTransformer::RunStep(const CudaStep& step) {
  LONGSPAN_RETURN_IF_ERROR(Embed(step.rows));
  const CudaPhaseSpan span(run_.phases, Phase::kLinear);
  const bool fuses = Fuses(step.rows);
  for (size_t i = 0; i < run_.weights.layers.size(); ++i) {
    const CudaLayer& layer = run_.weights.layers[i];
    if (fuses) {
      LONGSPAN_RETURN_IF_ERROR(FusedQkv(layer, step.rows));
      LONGSPAN_RETURN_IF_ERROR(AttendTokensCuda(&run_, static_cast<int64_t>(i), step));
      LONGSPAN_RETURN_IF_ERROR(FusedOutput(layer, step.rows));
      LONGSPAN_RETURN_IF_ERROR(FusedMlp(layer, step.rows));
      continue;
    }
    LONGSPAN_RETURN_IF_ERROR(Normalize(layer.attention_norm, x_, step.rows));
    LONGSPAN_RETURN_IF_ERROR(ProjectQkv(layer, CudaStage::kDecode, step.rows));
    LONGSPAN_RETURN_IF_ERROR(AttendTokensCuda(&run_, static_cast<int64_t>(i), step));
    LONGSPAN_RETURN_IF_ERROR(ProjectOutput(layer, CudaStage::kDecode, step.rows));
    LONGSPAN_RETURN_IF_ERROR(Mlp(layer, CudaStage::kDecode, step.rows));
  }
  return absl::OkStatus();
}

absl::Status CudaTransformer::Decode(absl::Span<const DecodeToken> tokens,
                                     absl::Span<const int32_t> ids) {
  LONGSPAN_ASSIGN_OR_RETURN(const CudaStep step, UploadStep(tokens, ids));
  const AttentionContext& context = *run_.context;
  for (const DecodeToken& token : tokens) {
    CountAttended(run_, {token.position, token.position + 1});
  }
  if (context.deterministic || context.on_selection || !run_.gpu->communicator->stream_ordered()) {
    BeginPhases();
    LONGSPAN_RETURN_IF_ERROR(RunStep(step));
    return Finish();
  }
  LONGSPAN_ASSIGN_OR_RETURN(StepGraph* const replayed, GraphOf(step));
  x_ = run_.buffers.x;
  rows_ = step.rows;
  LONGSPAN_RETURN_IF_ERROR(replayed->graph.Launch(run_.stream()));
  LONGSPAN_RETURN_IF_ERROR(Finish());
  if (!replayed->phases) return absl::OkStatus();
  return Report(*replayed->phases, replayed->calls, context.phases);
}

absl::StatusOr<CudaTransformer::StepGraph*> CudaTransformer::GraphOf(const CudaStep& step) {
  const bool has_phases = run_.context->phases != nullptr;
  const auto found = graphs_.find({step.rows, has_phases});
  if (found != graphs_.end()) return &found->second;
  StepGraph captured;
  if (has_phases) run_.phases = &captured.phases.emplace(run_.stream());
  const absl::Cleanup reset = [this] { run_.phases = nullptr; };
  const CommunicatorStats before = run_.gpu->communicator->stats();
  LONGSPAN_ASSIGN_OR_RETURN(captured.graph,
                            cuda::Graph::Capture(run_.stream(), [&]() -> absl::Status {
                              if (has_phases) run_.phases->Begin();
                              LONGSPAN_RETURN_IF_ERROR(RunStep(step));
                              if (has_phases) run_.phases->End();
                              return absl::OkStatus();
                            }));
  captured.calls = CallsSince(before, run_.gpu->communicator->stats());
  return &graphs_.emplace(std::pair(step.rows, has_phases), std::move(captured)).first->second;
}

absl::Status CudaTransformer::ComputeLogits(int64_t first, int64_t rows) {
  const float* x = x_ + first * config_.hidden_size;
  if (Fuses(rows)) {
    return MultiplyNormed(run_.weights.final_norm, x, rows, run_.weights.lm_head,
                          config_.vocab_size, run_.buffers.logits, DType::kFloat32, {});
  }
  LONGSPAN_RETURN_IF_ERROR(Normalize(run_.weights.final_norm, x, rows));
  return Product(&run_, CudaStage::kDecode, run_.buffers.normed, rows, config_.hidden_size,
                 run_.weights.lm_head, config_.vocab_size, run_.buffers.logits, DType::kFloat32);
}

absl::StatusOr<std::vector<float>> CudaTransformer::Logits(int64_t first, int64_t count) {
  const int64_t vocab = config_.vocab_size;
  std::vector<float> logits(count * vocab);
  for (int64_t row = 0; row < count; row += kLogitRows) {
    const int64_t rows = std::min(kLogitRows, count - row);
    LONGSPAN_RETURN_IF_ERROR(ComputeLogits(first + row, rows));
    LONGSPAN_RETURN_IF_ERROR(cuda::Copy(logits.data() + row * vocab, run_.buffers.logits,
                                        rows * vocab * 4, run_.stream()));
  }
  LONGSPAN_RETURN_IF_ERROR(Finish());
  return logits;
}

absl::StatusOr<std::vector<int32_t>> CudaTransformer::LikeliestTokens(int64_t first,
                                                                      int64_t count) {
  std::vector<int32_t> tokens(count);
  for (int64_t row = 0; row < count; row += kLogitRows) {
    cuda::ArgMaxArgs args;
    args.logits = run_.buffers.logits;
    args.rows = std::min(kLogitRows, count - row);
    args.vocab = config_.vocab_size;
    args.ids = run_.buffers.likeliest;
    args.workspace = run_.buffers.arg_max;
    LONGSPAN_RETURN_IF_ERROR(ComputeLogits(first + row, args.rows));
    LONGSPAN_RETURN_IF_ERROR(cuda::ArgMax(args, run_.stream()));
    LONGSPAN_RETURN_IF_ERROR(cuda::Copy(tokens.data() + row, args.ids,
                                        args.rows * static_cast<int64_t>(sizeof(int32_t)),
                                        run_.stream()));
  }
  LONGSPAN_RETURN_IF_ERROR(Finish());
  return tokens;
}

}  // namespace longspan
