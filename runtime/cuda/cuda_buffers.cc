#include "runtime/cuda/cuda_buffers.h"

#include <algorithm>

#include "kernels/cuda/cache_store.h"
#include "kernels/cuda/decode_attention.h"
#include "kernels/cuda/key_list.h"
#include "kernels/cuda/merge.h"
#include "kernels/cuda/prefill_attention.h"
#include "kernels/cuda/prefill_score.h"
#include "kernels/cuda/ring_plan.h"
#include "kernels/cuda/rope.h"
#include "kernels/cuda/sampling.h"
#include "sharding/layer_schedule.h"
#include "sharding/sequence_layout.h"

namespace longspan {

CudaSizes CudaSizes::Of(const Config& config, const ModelConfig& model,
                        const AttentionContext& context, int sharers, int multiprocessors) {
  CudaSizes sizes;
  sizes.dtype = config.dtype == "bfloat16" ? DType::kBFloat16 : DType::kFloat32;
  sizes.hidden = model.hidden_size;
  sizes.intermediate = model.intermediate_size;
  sizes.vocab = model.vocab_size;
  sizes.shape = context.shape;
  sizes.kv = context.kv;
  sizes.ranks = context.layout.num_ranks;
  sizes.sharers = sharers;
  sizes.multiprocessors = multiprocessors;
  sizes.on_host = config.kv_cache_tier == "host";
  const int64_t chunk = config.prefill_chunk_tokens;
  const int64_t block = config.esa.selection_block;
  const int64_t stripe = context.layout.stripe_tokens;
  // A chunk may begin within a stripe.
  const int64_t stripes = (chunk + stripe - 1) / stripe + 1;
  const int64_t own = std::min(chunk, (stripes + sizes.ranks - 1) / sizes.ranks * stripe);
  const int64_t panel = std::max<int64_t>(1, context.panel_rows);
  const int64_t padded = (block + panel - 1) / panel * panel;
  sizes.blocks = (chunk + block - 1) / block;
  sizes.own_blocks = (own + block - 1) / block;
  sizes.sequences = config.max_num_seqs;
  sizes.rows = std::max({sizes.own_blocks * padded, sizes.sequences, kLogitRows});
  sizes.max_tokens = config.max_model_len;
  const int64_t pages = context.layout.NumPages(0, sizes.max_tokens);
  sizes.own_tokens = pages * stripe;
  sizes.own_keys = pages * (stripe + 2 * context.kv.halo);
  sizes.top_k = context.selects ? config.esa.top_k : 0;
  sizes.voters = context.voters;
  sizes.votes = sizes.top_k > 0 && context.esa.score != Score::kHeadSum;
  sizes.merge = context.merge;
  sizes.listed_keys = context.sizes.dense
                          ? sizes.max_tokens
                          : std::min(sizes.max_tokens, context.sizes.initial_tokens + sizes.top_k +
                                                           context.sizes.local_tokens + block);
  // A block near the begin reads all that is before it.
  sizes.listed_keys = std::max(sizes.listed_keys,
                               std::min(sizes.max_tokens, context.sizes.initial_tokens +
                                                              context.sizes.local_tokens + block));
  const int64_t last_position =
      std::max({sizes.max_tokens, context.esa.far_position,
                context.sizes.initial_tokens + context.sizes.local_tokens});
  sizes.rope_coarse = (last_position + 1) / cuda::kRopeFine + 1;
  return sizes;
}

int64_t CudaSizes::arriving_keys() const {
  return reads_pages() ? 0 : std::min(max_tokens, own_blocks * listed_keys);
}

int64_t CudaSizes::keys_of_rank() const { return std::min(arriving_keys(), own_tokens); }

// All other ranks may want the same.
int64_t CudaSizes::sent_keys() const { return (ranks - 1) * keys_of_rank(); }

void CudaBuffers::Lay(const CudaSizes& sizes, Arena* arena, Arena* shared) {
  const auto bytes = [arena](int64_t count) { return arena->Take<std::byte>(count); };
  // What ranks gather or reduce is at the same place on all of them, so nothing here may take a
  // size that differs between their GPUs.
  if (sizes.ranks == 1) shared = arena;
  const int64_t number = SizeOf(sizes.dtype);
  const int64_t cached = SizeOf(sizes.score_query_dtype());
  const int64_t rows = sizes.rows;
  const int64_t query_dim = sizes.shape.query_dim();
  const int64_t kv_dim = sizes.shape.kv_dim();
  const int64_t heads = sizes.shape.heads;
  const int64_t pages =
      sizes.max_tokens / sizes.kv.stripe_tokens / sizes.ranks + 2;  // of a sequence

  const cuda::ShardGeometry geometry = {static_cast<int32_t>(sizes.kv.stripe_tokens), sizes.ranks,
                                        0};  // of the rank that owns most

  ids = arena->Take<int32_t>(rows);
  const int64_t of_block = static_cast<int64_t>(
      sizeof(cuda::ScoredBlock) + sizeof(cuda::AttentionBlock) + sizeof(cuda::KeyRanges) +
      sizeof(cuda::RingBlock) + sizeof(cuda::StoredRun));
  const int64_t halo_runs = 4 * (sizes.blocks + 2);
  parameter_bytes = 2 * pages * 8 + sizes.blocks * of_block +
                    halo_runs * static_cast<int64_t>(sizeof(cuda::ScoreRun)) + 256;
  parameters = bytes(parameter_bytes);
  step_bytes = sizes.sequences * (2 * pages * 8 + 64) + 256;
  step = bytes(step_bytes);
  x = arena->Take<float>(rows * sizes.hidden);
  normed = bytes(rows * sizes.hidden * number);
  stacked = arena->Take<float>(rows * sizes.qkv());
  queries = arena->Take<float>(rows * query_dim);
  keys = arena->Take<float>(rows * kv_dim);
  values = arena->Take<float>(rows * kv_dim);
  attended = shared->Take<std::byte>(rows * query_dim * number);
  gate_up = bytes(rows * 2 * sizes.intermediate * number);
  activated = bytes(rows * sizes.intermediate * number);
  logits = arena->Take<float>(kLogitRows * sizes.vocab);
  likeliest = arena->Take<int32_t>(kLogitRows);
  arg_max = bytes(cuda::ArgMaxWorkspaceBytes(kLogitRows));

  if (sizes.top_k > 0) {
    const int64_t dim = sizes.kv.score_dim;
    const int64_t candidates_of_all = sizes.selections() * sizes.top_k;
    Arena* const of_input = sizes.low_rank() ? arena : shared;
    score_input =
        of_input->Take<std::byte>(rows * sizes.score_input_dim() * std::max(cached, number));
    if (sizes.low_rank()) score_queries = shared->Take<std::byte>(rows * dim * cached);
    if (sizes.ranks > 1) {
      gathered_queries =
          shared->Take<std::byte>(sizes.ranks * rows * sizes.voters.query_dim() * cached);
    }
    token_queries = arena->Take<float>(sizes.sequences * sizes.voters.query_dim());
    if (sizes.low_rank()) score_keys = arena->Take<float>(rows * dim);
    maxima = shared->Take<float>(sizes.maxima_of_query() * sizes.ranks * rows);
    scores =
        arena->Take<float>((sizes.votes ? sizes.selections() : sizes.blocks) * sizes.own_tokens);
    if (sizes.votes) {
      const int64_t voters = sizes.voters.count;
      const int64_t norms = sizes.voters.soft ? voters * sizes.ranks * rows : 0;
      vote_sums = shared->Take<uint32_t>(norms * kVoteSumDigits);
      vote_weights = arena->Take<float>(norms);
      vote_products = arena->Take<float>(sizes.sequences * voters * sizes.own_keys);
      vote_blocks = arena->Take<cuda::ScoredBlock>(sizes.sequences);
    }
    spread = reinterpret_cast<float*>(
        bytes(cuda::PrefillScoresWorkspaceBytes(geometry, static_cast<int32_t>(sizes.kv.halo),
                                                static_cast<int>(sizes.blocks), sizes.max_tokens)));
    candidates = shared->Take<Candidate>(candidates_of_all);
    own_counts = arena->Take<int32_t>(sizes.selections());
    selected = arena->Take<Candidate>(candidates_of_all);
    counts = arena->Take<int32_t>(sizes.selections());
    if (sizes.ranks > 1) {
      const int64_t gathering = sizes.MostMerged(MergeWay::kAllGather);
      gathered = shared->Take<Candidate>(sizes.ranks * gathering * sizes.top_k);
      merge = bytes(cuda::MergeCandidatesWorkspaceBytes(sizes.ranks, gathering, sizes.top_k));
      const int64_t counting = sizes.MostMerged(MergeWay::kHistogram);
      brackets = arena->Take<cuda::DigitBracket>(counting);
      digit_sums = shared->Take<uint32_t>(counting * DigitSums(0, sizes.ranks));
      last_sums = shared->Take<uint32_t>(counting * DigitSums(kDigits - 1, sizes.ranks));
      winners = shared->Take<uint32_t>(counting * sizes.top_k);
    }
    // Two edges of each stripe of a chunk, out and in.
    const int64_t edges = 2 * (sizes.blocks + 2);
    halo_bytes = 2 * edges * sizes.kv.halo * sizes.kv.score_row_bytes();
    halos = bytes(halo_bytes);
  }

  const int64_t listed = sizes.own_blocks * sizes.listed_keys;
  key_rows = arena->Take<uint32_t>(listed);
  key_positions = arena->Take<uint32_t>(listed);
  if (!sizes.reads_pages()) {
    sent_keys = arena->Take<uint32_t>(sizes.sent_keys());
    own_arriving = arena->Take<uint32_t>(sizes.arriving_keys());
    row_of = arena->Take<uint32_t>(sizes.max_tokens);
    ring_ends = arena->Take<uint32_t>(sizes.num_ring_ends());
    ring_workspace = bytes(cuda::RingPlanWorkspaceBytes(geometry, kRingGroups, sizes.max_tokens));
    sent = bytes(sizes.sent_keys() * 2 * sizes.kv.row_bytes());
    arrived = bytes(sizes.arriving_keys() * 2 * sizes.kv.row_bytes());
  }
  decode_lse = arena->Take<float>(sizes.sequences * heads);
  decode_workspace_bytes = cuda::DecodeAttentionWorkspaceBytes(
      sizes.shape, static_cast<int>(sizes.sequences), sizes.multiprocessors);
  decode_workspace = bytes(decode_workspace_bytes);
  if (sizes.ranks > 1) {
    const int64_t partial_floats = sizes.sequences * (query_dim + heads);
    partial = shared->Take<float>(partial_floats);
    partials = shared->Take<float>(sizes.ranks * partial_floats);
    outputs = shared->Take<std::byte>(sizes.ranks * sizes.sequences * query_dim * number);
  }
}

}  // namespace longspan
