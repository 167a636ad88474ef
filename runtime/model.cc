#include "runtime/model.h"

#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "collectives/agree.h"
#include "kernels/base/status_macros.h"
#include "kernels/linear.h"
#include "runtime/compressor.h"
#include "sharding/topk_merge.h"

namespace longspan {
namespace {

// Bits are equal across ranks only if all compute with the same kernels.
absl::Status CheckSameKernels(Communicator* communicator) {
  char mine[128] = {};
  KernelSet().copy(mine, sizeof(mine) - 1);
  std::vector<char> all(communicator->size() * sizeof(mine));
  LONGSPAN_RETURN_IF_ERROR(communicator->AllGather("kernel.sets", mine, all.data(), sizeof(mine)));
  for (int r = 1; r < communicator->size(); ++r) {
    const char* other = all.data() + r * sizeof(mine);
    if (std::strcmp(all.data(), other) == 0) continue;
    return absl::FailedPreconditionError(
        absl::StrCat("deterministic: rank 0 computes with ", all.data(), " but rank ", r, " with ",
                     other, "; set OPENBLAS_CORETYPE to one that all processors have"));
  }
  return absl::OkStatus();
}

absl::StatusOr<int> CountRanksOnHost(Communicator* communicator) {
  char name[256] = {};
  gethostname(name, sizeof(name) - 1);
  std::vector<char> all(communicator->size() * sizeof(name));
  LONGSPAN_RETURN_IF_ERROR(communicator->AllGather("host.names", name, all.data(), sizeof(name)));
  int count = 0;
  for (int r = 0; r < communicator->size(); ++r) {
    count += std::memcmp(all.data() + r * sizeof(name), name, sizeof(name)) == 0;
  }
  return count;
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
  const std::string path = config.esa.compressor.empty()
                               ? absl::StrCat(config.model, "/compressor.safetensors")
                               : config.esa.compressor;
  LONGSPAN_ASSIGN_OR_RETURN(
      const Compressor compressor,
      LoadCompressor(path, model->config, ModelFingerprint(model->config, model->weights),
                     config.esa.compressed_dim));
  model->attention.factors = MakeScoreFactors(compressor);
  return absl::OkStatus();
}

absl::Status LoadFiles(const Config& config, Communicator* communicator, Model* model) {
  LONGSPAN_ASSIGN_OR_RETURN(model->config, LoadModelConfig(config.model));
  LONGSPAN_ASSIGN_OR_RETURN(model->weights, LoadWeights(config.model, model->config));
  model->rope =
      std::make_unique<Rope>(InverseFrequencies(model->config.rope, model->config.head_dim));
  model->attention =
      MakeAttentionContext(config, model->config, communicator, model->rope.get(), &model->counts);
  if (model->attention.selects && config.esa.compression == Compression::kLowRank) {
    return LoadFactors(config, model);
  }
  return absl::OkStatus();
}

// The number of cache pages every rank can have, and the length limit that follows.
absl::Status FitCache(const MemoryPlan& plan, int64_t pages, Config* config,
                      const SequenceLayout& layout) {
  const int64_t round = layout.stripe_tokens * layout.num_ranks;
  if (config->max_model_len == 0) {
    if (pages == 0) {
      return absl::ResourceExhaustedError(
          absl::StrCat("the model leaves no memory for a cache: a rank needs ",
                       plan.fixed() + plan.page, " bytes and may use ",
                       static_cast<int64_t>(static_cast<double>(plan.available) *
                                            config->kv_cache_memory_fraction),
                       " (kv_cache.memory_fraction ", config->kv_cache_memory_fraction, " of ",
                       plan.available, ": ", plan.ToString(), ")"));
    }
    config->max_model_len = std::min(pages * round, kMaxPosition);
    return absl::OkStatus();
  }
  const int64_t needed = layout.NumPages(0, config->max_model_len);
  if (needed <= pages) return absl::OkStatus();
  return absl::ResourceExhaustedError(absl::StrCat(
      "the cache does not fit: for max_model_len ", config->max_model_len, " a rank needs ",
      plan.fixed() + needed * plan.page, " bytes and may use ",
      static_cast<int64_t>(static_cast<double>(plan.available) * config->kv_cache_memory_fraction),
      " (kv_cache.memory_fraction ", config->kv_cache_memory_fraction, " of ", plan.available, ": ",
      plan.ToString(), "); ",
      pages == 0
          ? "raise kv_cache.memory_fraction, free memory, or use more machines"
          : absl::StrCat("use more machines, kv_cache.dtype bfloat16, or a max_model_len of at "
                         "most ",
                         pages * round)));
}

}  // namespace

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
  if (config.attention == Attention::kEsa && config.esa.top_k > 0) {
    kv.score_is_key = config.esa.compression == Compression::kExact;
    kv.score_dim = kv.score_is_key ? kv.kv_dim : config.esa.compressed_dim;
    kv.halo = config.esa.proximity;
  }
  return kv;
}

AttentionContext MakeAttentionContext(const Config& config, const ModelConfig& model,
                                      Communicator* communicator, Rope* rope,
                                      AttentionCounts* counts) {
  AttentionContext context;
  context.communicator = communicator;
  context.shape = {model.num_heads, model.num_kv_heads, model.head_dim};
  // Queries and keys that are both longer by a factor: scores are by its square.
  context.shape.score_scale = model.rope.attention_factor * model.rope.attention_factor;
  context.kv = MakeKvShape(config, model);
  context.sizes = {config.esa.initial_tokens, config.esa.local_tokens,
                   config.attention == Attention::kDense};
  context.layout = {config.parallel.stripe_tokens, communicator->size()};
  context.esa = config.esa;
  context.selects = config.attention == Attention::kEsa && config.esa.top_k > 0;
  context.deterministic = config.deterministic;
  context.panel_rows = config.deterministic ? kPanelRows : 0;
  context.rope = rope;
  context.counts = counts;
  return context;
}

absl::StatusOr<std::unique_ptr<Model>> LoadModel(Communicator* communicator, Config* config) {
  auto model = std::make_unique<Model>();
  LONGSPAN_RETURN_IF_ERROR(
      AgreeOnStatus(communicator, LoadFiles(*config, communicator, model.get())));
  if (config->deterministic) {
    LONGSPAN_RETURN_IF_ERROR(AgreeOnStatus(communicator, CheckSameKernels(communicator)));
  }
  LONGSPAN_ASSIGN_OR_RETURN(const int on_host, CountRanksOnHost(communicator));
  model->memory = PlanMemory(*config, model->config, model->attention.kv, communicator->size(),
                             on_host, WeightBytes(model->weights));
  // Ranks must agree on how much fits, so that none runs out first.
  int64_t pages = model->memory.MaxPages(config->kv_cache_memory_fraction);
  std::vector<int64_t> all(communicator->size());
  LONGSPAN_RETURN_IF_ERROR(
      communicator->AllGather("cache.pages", &pages, all.data(), sizeof(pages)));
  pages = *std::min_element(all.begin(), all.end());
  LONGSPAN_RETURN_IF_ERROR(
      AgreeOnStatus(communicator, FitCache(model->memory, pages, config, model->attention.layout)));
  model->pool = std::make_unique<PagePool>(model->attention.kv, pages);
  model->transformer =
      std::make_unique<Transformer>(model->config, model->weights, model->attention);
  return model;
}

}  // namespace longspan
