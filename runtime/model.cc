#include "runtime/model.h"

#include <spdlog/spdlog.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <filesystem>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "collectives/agree.h"
#include "collectives/hosts.h"
#include "kernels/base/status_macros.h"
#include "kernels/linear.h"
#include "runtime/candidate_merge.h"
#include "runtime/compressor.h"
#include "runtime/cpu_transformer.h"
#include "runtime/dummy_model.h"
#include "runtime/gpu_model.h"

namespace longspan {
namespace {

// Bits are equal across ranks only if all compute with the same kernels.
absl::Status CheckSameKernels(Communicator* communicator, const std::string& kernels,
                              absl::string_view remedy) {
  char mine[256] = {};
  kernels.copy(mine, sizeof(mine) - 1);
  std::vector<char> all(communicator->size() * sizeof(mine));
  LONGSPAN_RETURN_IF_ERROR(communicator->AllGather("kernel.sets", mine, all.data(), sizeof(mine)));
  for (int r = 1; r < communicator->size(); ++r) {
    const char* other = all.data() + r * sizeof(mine);
    if (std::strcmp(all.data(), other) == 0) continue;
    return absl::FailedPreconditionError(absl::StrCat("deterministic: rank 0 computes with ",
                                                      all.data(), " but rank ", r, " with ", other,
                                                      "; ", remedy));
  }
  return absl::OkStatus();
}

// [dim, kv_dim] of a factor stored [kv_dim, dim].
std::vector<float> Transposed(const Tensor& factor) {
  const int64_t rows = factor.shape[0];
  const int64_t columns = factor.shape[1];
  const auto* from = static_cast<const float*>(factor.data);
  std::vector<float> out(rows * columns);
  for (int64_t r = 0; r < rows; ++r) {
    for (int64_t c = 0; c < columns; ++c) out[c * rows + r] = from[r * columns + c];
  }
  return out;
}

absl::Status LoadFactors(const Config& config, Model* model) {
  if (IsDummy(config) && config.esa.compressor.empty()) {
    model->attention.factors =
        MakeScoreFactors(MakeDummyCompressor(model->config, config.esa.compressed_dim));
    return absl::OkStatus();
  }
  LONGSPAN_ASSIGN_OR_RETURN(const Compressor compressor,
                            LoadCompressor(CompressorPath(config), model->config,
                                           ModelFingerprint(model->config, model->weights),
                                           ScoreTargetName(config.esa), config.esa.compressed_dim));
  model->attention.factors = MakeScoreFactors(compressor);
  return absl::OkStatus();
}

absl::Status LoadFiles(Communicator* communicator, Config* resolved, Model* model) {
  LONGSPAN_ASSIGN_OR_RETURN(model->config, LoadModelConfig(resolved->model));
  LONGSPAN_RETURN_IF_ERROR(StretchRope(*resolved, &model->config));
  ResolveDType(model->config, resolved);
  const Config& config = *resolved;
  LONGSPAN_ASSIGN_OR_RETURN(model->weights, MapWeights(config, model->config));
  model->rope =
      std::make_unique<Rope>(InverseFrequencies(model->config.rope, model->config.head_dim));
  model->attention =
      MakeAttentionContext(config, model->config, communicator, model->rope.get(), &model->counts);
  if (model->attention.selects && config.esa.compression == Compression::kLowRank) {
    return LoadFactors(config, model);
  }
  return absl::OkStatus();
}

absl::Status PlanOnHost(const Config& config, Communicator* communicator, WeightsAtOnce at_once,
                        Model* model) {
  LONGSPAN_ASSIGN_OR_RETURN(const int on_host, CountRanksOnHost(*communicator));
  int64_t weight_bytes = CountWeights(model->weights).bytes;
  if (at_once == WeightsAtOnce::kOneLayer) weight_bytes /= model->config.num_layers;
  model->memory = PlanMemory(config, model->config, model->attention.kv,
                             model->attention.layout.num_ranks, on_host, weight_bytes);
  return absl::OkStatus();
}

// Ranks must agree on how much fits, so that none runs out first.
absl::StatusOr<int64_t> LeastOf(Communicator* communicator, int64_t mine) {
  std::vector<int64_t> all(communicator->size());
  LONGSPAN_RETURN_IF_ERROR(communicator->AllGather("cache.room", &mine, all.data(), sizeof(mine)));
  return *std::min_element(all.begin(), all.end());
}

absl::Status PlanOnGpu(const Config& config, Model* model) {
  LONGSPAN_ASSIGN_OR_RETURN(model->memory, PlanGpuMemory(config, *model));
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<ModelWeights> MapWeights(const Config& config, const ModelConfig& model) {
  return IsDummy(config) ? MakeDummyWeights(model, /*fill=*/false)
                         : LoadWeights(config.model, model);
}

absl::StatusOr<std::unique_ptr<Tokenizer>> LoadTokenizer(const Config& config) {
  std::error_code ignored;
  if (!IsDummy(config) || std::filesystem::exists(config.model + "/tokenizer.json", ignored)) {
    return Tokenizer::Load(config.model);
  }
  LONGSPAN_ASSIGN_OR_RETURN(const ModelConfig model, LoadModelConfig(config.model));
  return MakeDummyTokenizer(model.vocab_size);
}

std::vector<ScoreFactors> MakeScoreFactors(const Compressor& compressor) {
  std::vector<ScoreFactors> factors;
  for (const LayerCompressor& layer : compressor.layers) {
    factors.push_back({Transposed(layer.query), Transposed(layer.key)});
  }
  return factors;
}

KvShape MakeKvShape(const Config& config, const ModelConfig& model) {
  KvShape kv;
  kv.layers = model.num_layers;
  kv.kv_dim = model.num_kv_heads * model.head_dim;
  kv.stripe_tokens = config.parallel.stripe_tokens;
  kv.dtype = KvCacheDType(config);
  kv.score_dtype = ScoreKeyDType(config);
  if (config.attention == Attention::kEsa && config.esa.top_k > 0) {
    kv.score_is_key = config.esa.compression == Compression::kExact;
    kv.score_dim = kv.score_is_key ? kv.kv_dim : config.esa.compressed_dim;
    kv.halo = config.esa.unit_tokens > 1 ? 0 : config.esa.proximity;
  }
  return kv;
}

absl::Status StretchRope(const Config& config, ModelConfig* model) {
  if (config.rope.scaling == RopeStretch::kNone) return absl::OkStatus();
  const std::string key = absl::StrCat("`rope.scaling: ", ConfigValue(config, "rope.scaling"), "`");
  if (model->rope.scaling != RopeScaling::kNone) {
    return absl::FailedPreconditionError(
        absl::StrCat(key,
                     ": the model's config.json has a RoPE scaling of its own, which is left "
                     "as it is; leave the key out"));
  }
  const auto trained = static_cast<double>(model->max_position_embeddings);
  const double factor = config.rope.factor > 0
                            ? config.rope.factor
                            : std::max(1.0, static_cast<double>(config.max_model_len) / trained);
  if (config.rope.scaling == RopeStretch::kNtk) {
    model->rope = StretchedByNtk(model->rope, model->head_dim, factor);
  } else if (model->rope.theta > 1) {
    model->rope = StretchedByYarn(model->rope, model->max_position_embeddings, factor);
  } else {
    return absl::FailedPreconditionError(
        absl::StrCat(key, ": needs a rope_theta above 1, config.json has ", model->rope.theta));
  }
  model->max_position_embeddings = static_cast<int64_t>(trained * factor);
  return absl::OkStatus();
}

void ResolveDType(const ModelConfig& model, Config* config) {
  if (config->dtype != "auto") return;
  const bool wide = config->device == "cpu" || model.dtype == DType::kFloat32;
  config->dtype = wide ? "float32" : "bfloat16";
}

Voters MakeVoters(const Config& config, const ModelConfig& model) {
  const int64_t score_dim = MakeKvShape(config, model).score_dim;
  Voters voters = {.count = 1, .dim = score_dim};
  voters.scale = static_cast<float>(model.rope.attention_factor * model.rope.attention_factor /
                                    std::sqrt(static_cast<double>(model.head_dim)));
  if (score_dim == 0 || config.esa.score == Score::kHeadSum) return voters;
  voters.soft = config.esa.score != Score::kHeadMax;
  if (config.esa.score == Score::kGroupVote) {
    voters.count = config.esa.score_groups;
    voters.dim = score_dim / voters.count;
    return voters;
  }
  voters.count = model.num_heads;
  voters.dim = model.head_dim;
  voters.to_a_slice = model.num_heads / model.num_kv_heads;
  return voters;
}

AttentionContext MakeAttentionContext(const Config& config, const ModelConfig& model,
                                      int num_ranks) {
  AttentionContext context;
  context.shape = {model.num_heads, model.num_kv_heads, model.head_dim};
  // Queries and keys that are both longer by a factor: scores are by its square.
  context.shape.score_scale = model.rope.attention_factor * model.rope.attention_factor;
  context.kv = MakeKvShape(config, model);
  context.voters = MakeVoters(config, model);
  context.sizes = {config.esa.initial_tokens, config.esa.local_tokens,
                   config.attention == Attention::kDense};
  context.layout = {config.parallel.stripe_tokens, num_ranks};
  context.esa = config.esa;
  context.selects = config.attention == Attention::kEsa && config.esa.top_k > 0;
  context.merge = MergeWayOf(config.parallel.selection_merge);
  context.deterministic = config.deterministic;
  context.panel_rows = !config.deterministic     ? 0
                       : config.device == "cuda" ? kGpuPanelRows
                                                 : kCpuPanelRows;
  return context;
}

AttentionContext MakeAttentionContext(const Config& config, const ModelConfig& model,
                                      Communicator* communicator, Rope* rope,
                                      AttentionCounts* counts) {
  AttentionContext context = MakeAttentionContext(config, model, communicator->size());
  context.communicator = communicator;
  context.rope = rope;
  context.counts = counts;
  return context;
}

absl::StatusOr<std::unique_ptr<Model>> LoadModel(Communicator* communicator, Config* config,
                                                 WeightsAtOnce at_once, Communicator* alone) {
  auto model = std::make_unique<Model>();
  LONGSPAN_RETURN_IF_ERROR(AgreeOnStatus(
      communicator, LoadFiles(alone == nullptr ? communicator : alone, config, model.get())));
  const bool on_gpu = config->device == "cuda";
  if (on_gpu) {
    LONGSPAN_RETURN_IF_ERROR(
        AgreeOnStatus(communicator, OpenModelGpu(*config, communicator, model.get())));
  } else {
    model->kernels = KernelSet();
    if (const std::string type = MissedCoreType(); !type.empty() && communicator->rank() == 0) {
      spdlog::warn(
          "OpenBLAS does not know this processor: OPENBLAS_CORETYPE={} in the environment of all "
          "ranks makes prompts several times as fast",
          type);
    }
  }
  if (config->deterministic) {
    LONGSPAN_RETURN_IF_ERROR(AgreeOnStatus(
        communicator,
        CheckSameKernels(communicator, model->kernels,
                         on_gpu ? "use GPUs and libraries of one kind"
                                : "set OPENBLAS_CORETYPE to one that all processors have")));
  }
  LONGSPAN_RETURN_IF_ERROR(AgreeOnStatus(
      communicator, on_gpu ? PlanOnGpu(*config, model.get())
                           : PlanOnHost(*config, communicator, at_once, model.get())));
  LONGSPAN_ASSIGN_OR_RETURN(
      const int64_t pages,
      LeastOf(communicator, model->memory.MaxPages(config->kv_cache_memory_fraction)));
  if (on_gpu) {
    LONGSPAN_ASSIGN_OR_RETURN(model->memory.longest, LeastOf(communicator, *model->memory.longest));
  }
  LONGSPAN_RETURN_IF_ERROR(
      AgreeOnStatus(communicator, FitCache(model->memory, pages, config, model->attention.layout)));
  model->pool = std::make_unique<PagePool>(model->attention.kv, pages,
                                           on_gpu ? GpuPages(*config) : PageMemory());
  if (IsDummy(*config)) {  // only now, for nothing may be taken before it is known to fit
    absl::StatusOr<ModelWeights> made = MakeDummyWeights(model->config, /*fill=*/true);
    LONGSPAN_RETURN_IF_ERROR(AgreeOnStatus(communicator, made.status()));
    model->weights = *std::move(made);
  }
  if (!on_gpu) {
    model->transformer =
        std::make_unique<CpuTransformer>(model->config, model->weights, model->attention);
    return model;
  }
  absl::StatusOr<std::unique_ptr<Transformer>> transformer = MakeGpuTransformer(*config, *model);
  LONGSPAN_RETURN_IF_ERROR(AgreeOnStatus(communicator, transformer.status()));
  model->transformer = *std::move(transformer);
  if (IsDummy(*config)) {  // files are mapped, but these would take the host's memory from its tier
    LONGSPAN_ASSIGN_OR_RETURN(model->weights, MakeDummyWeights(model->config, /*fill=*/false));
  }
  return model;
}

}  // namespace longspan
