#include "runtime/gpu_memory.h"

#include <algorithm>

#include "kernels/base/dtype.h"
#include "runtime/attention_context.h"
#include "runtime/cuda/arena.h"
#include "runtime/model.h"
#include "sharding/digit_select.h"
#include "sharding/layer_schedule.h"
#include "sharding/merge_choice.h"
#include "sharding/topk_merge.h"

namespace longspan {
namespace {

constexpr auto kFloat = static_cast<int64_t>(sizeof(float));
constexpr auto kCandidate = static_cast<int64_t>(sizeof(Candidate));
constexpr int64_t kLogitRows = 16;                // CudaBuffers::logits
constexpr int64_t kRingGroups = 4;                // of cuda_buffers.h
constexpr int64_t kProducts = int64_t{32} << 20;  // LinearPlans::Bytes
constexpr int64_t kRopeBytes = int64_t{2} << 20;  // RopeAngles of a few million positions

// The sizes that cuda_buffers.cc derives from a config, by the same rules.
struct Sizes {
  Sizes(const Config& config, const ModelConfig& model, int num_ranks, int64_t tokens)
      : context(MakeAttentionContext(config, model, num_ranks)), ranks(num_ranks) {
    const int64_t chunk = config.prefill_chunk_tokens;
    const int64_t block = config.esa.selection_block;
    const int64_t stripe = context.layout.stripe_tokens;
    const int64_t stripes = (chunk + stripe - 1) / stripe + 1;
    const int64_t own = std::min(chunk, (stripes + ranks - 1) / ranks * stripe);
    const int64_t panel = std::max<int64_t>(1, context.panel_rows);
    number = config.dtype == "bfloat16" ? 2 : 4;
    query_number =
        context.kv.score_dtype == DType::kFloat8E4M3 ? 2 : SizeOf(context.kv.score_dtype);
    blocks = (chunk + block - 1) / block;
    own_blocks = (own + block - 1) / block;
    sequences = config.max_num_seqs;
    rows = std::max({own_blocks * ((block + panel - 1) / panel * panel), sequences, kLogitRows});
    const int64_t pages = context.layout.NumPages(0, tokens);
    own_tokens = pages * stripe;
    own_keys = pages * (stripe + 2 * context.kv.halo);
    top_k = context.selects ? config.esa.top_k : 0;
    listed_keys = context.sizes.dense ? tokens
                                      : std::min(tokens, context.sizes.initial_tokens + top_k +
                                                             context.sizes.local_tokens + block);
    reads_pages = ranks == 1 && config.kv_cache_tier == "device";
  }

  AttentionContext context;
  int64_t ranks = 1;
  int64_t number = 0, query_number = 0;  // bytes of what products read, and of a query's numbers
  int64_t rows = 0, blocks = 0, own_blocks = 0, sequences = 0;
  int64_t own_tokens = 0, own_keys = 0, top_k = 0, listed_keys = 0;
  bool reads_pages = false;
};

int64_t ActivationBytes(const Sizes& sizes, const ModelConfig& model) {
  const int64_t query_dim = sizes.context.shape.query_dim();
  const int64_t kv_dim = sizes.context.kv.kv_dim;
  // Floats: residual, stacked projections, queries, keys and values; the rest as products read it.
  const int64_t floats = model.hidden_size + 2 * query_dim + 4 * kv_dim;
  const int64_t numbers = model.hidden_size + query_dim + 3 * model.intermediate_size;
  return sizes.rows * (floats * kFloat + numbers * sizes.number) +
         kLogitRows * model.vocab_size * kFloat + kProducts + kRopeBytes;
}

// What merges all ranks' candidates: theirs, or counts and winners.
int64_t CandidateMergeBytes(const Sizes& sizes) {
  constexpr int64_t kCount = sizeof(uint32_t);
  if (sizes.ranks == 1) return 0;
  const auto ranks = static_cast<int>(sizes.ranks);
  const auto most = [&](MergeWay way) {
    return MostRowsMerged(way, sizes.context.merge, Backend::kGpu, ranks,
                          std::max(sizes.blocks, sizes.sequences), sizes.top_k);
  };
  const int64_t sums = DigitSums(0, ranks) + DigitSums(kDigits - 1, ranks);
  return most(MergeWay::kAllGather) * sizes.ranks * sizes.top_k * kCandidate +
         most(MergeWay::kHistogram) * (sums + sizes.top_k) * kCount;
}

// What voters agree on, a maximum, digits of a sum and a weight for each query and voter, and their
// products with a decoded token's keys, with scores beyond those of blocks.
int64_t VoteBytes(const Sizes& sizes) {
  if (sizes.context.esa.score == Score::kHeadSum) return 0;
  const Voters& voters = sizes.context.voters;
  const int64_t norms = voters.soft ? voters.count * sizes.ranks * sizes.rows : 0;
  return norms * (2 * kFloat + kVoteSumDigits * static_cast<int64_t>(sizeof(uint32_t))) +
         sizes.sequences * voters.count * sizes.own_keys * kFloat +
         std::max<int64_t>(sizes.sequences - sizes.blocks, 0) * sizes.own_tokens * kFloat;
}

// Scores of all blocks and their proximity, and what sorts them, grow with the context.
int64_t ScoreBytes(const Sizes& sizes) {
  if (sizes.top_k == 0) return 0;
  const KvShape& kv = sizes.context.kv;
  const int64_t gathered = sizes.ranks > 1 ? sizes.ranks : 0;
  const Voters& voters = sizes.context.voters;
  const int64_t input_dim = kv.score_is_key ? voters.query_dim() : kv.kv_dim;
  const int64_t queries =
      sizes.rows *
      (input_dim * std::max(sizes.number, sizes.query_number) +
       (kv.score_dim + gathered * voters.query_dim()) * sizes.query_number + kv.score_dim * kFloat);
  const int64_t candidates = std::max(sizes.blocks, sizes.sequences) * sizes.top_k * kCandidate;
  const int64_t scores = sizes.blocks * (2 * sizes.own_tokens + sizes.own_keys) * kFloat;
  return queries + sizes.ranks * sizes.rows * kFloat + scores + VoteBytes(sizes) +
         sizes.sequences * sizes.own_keys * kFloat + 2 * candidates + CandidateMergeBytes(sizes);
}

// Keys and values on their way, with their lists, and partials of decoded tokens.
int64_t ExchangeBytes(const Sizes& sizes, int64_t tokens) {
  constexpr int64_t kIndex = sizeof(uint32_t);
  const int64_t listed = sizes.own_blocks * sizes.listed_keys;
  if (sizes.reads_pages) return 2 * listed * kIndex;
  // What plans the ring: bits of every token, to and from each rank in each group.
  const int64_t plan = 2 * kRingGroups * sizes.ranks * sizes.own_tokens / 8;
  const int64_t arriving = std::min(tokens, listed);
  // All other ranks may want the same.
  const int64_t of_rank = std::min(arriving, sizes.own_tokens);
  const int64_t sent = (sizes.ranks - 1) * of_rank;
  int64_t bytes = (sent + arriving) * 2 * sizes.context.kv.row_bytes() +
                  (sent + arriving + tokens + 2 * listed) * kIndex + plan;
  if (sizes.ranks > 1) {
    const int64_t query_dim = sizes.context.shape.query_dim();
    const int64_t partial = (query_dim + sizes.context.shape.heads) * kFloat;
    bytes +=
        sizes.sequences * ((1 + sizes.ranks) * partial + sizes.ranks * query_dim * sizes.number);
  }
  return bytes;
}

}  // namespace

MemoryPlan EstimateGpuMemory(const Config& config, const ModelConfig& model, int ranks,
                             int64_t parameters, int64_t max_tokens) {
  const Sizes sizes(config, model, ranks, max_tokens);
  const KvShape& kv = sizes.context.kv;
  const bool low_rank = kv.score_dim > 0 && !kv.score_is_key;
  const int64_t factors = low_rank ? model.num_layers * 2 * kv.kv_dim * kv.score_dim : 0;
  MemoryPlan plan;
  plan.weights = Granules((parameters + factors) * sizes.number);
  plan.activations = ActivationBytes(sizes, model);
  plan.scores = ScoreBytes(sizes);
  plan.exchange = ExchangeBytes(sizes, max_tokens);
  plan.page = Granules(kv.kv_bytes()) + Granules(kv.score_bytes());
  if (config.kv_cache_tier == "host") {
    plan.page = Granules(kv.score_bytes());
    plan.host_page = kv.kv_bytes();
  }
  return plan;
}

}  // namespace longspan
