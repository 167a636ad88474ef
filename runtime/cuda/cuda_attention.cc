#include "runtime/cuda/cuda_attention.h"

#include <algorithm>
#include <limits>
#include <vector>

#include "kernels/base/status_macros.h"
#include "kernels/cuda/decode_attention.h"
#include "kernels/cuda/key_list.h"
#include "kernels/cuda/merge.h"
#include "kernels/cuda/prefill_attention.h"
#include "runtime/cuda/cuda_halo.h"
#include "runtime/cuda/cuda_ring.h"
#include "runtime/cuda/cuda_selection.h"

namespace longspan {
namespace {

// Tokens of the middle that a block of these ranges selects: all of them where they are few.
int64_t NumSelected(const CudaRun& run, const AttentionRanges& ranges) {
  return run.context->selects ? std::min(run.sizes.top_k, ranges.middle.size()) : 0;
}

cuda::PrefillAttentionArgs AttentionArgs(const CudaRun& run) {
  const CudaBuffers& buffers = run.buffers;
  cuda::PrefillAttentionArgs args;
  args.shape = run.sizes.shape;
  args.dtype = run.sizes.kv.dtype;
  args.key_rows = buffers.key_rows;
  args.key_positions = buffers.key_positions;
  args.queries = buffers.queries;
  args.far_is_apart = run.context->esa.positions == Positions::kFar;
  args.far_position = run.context->esa.far_position;
  args.rope = run.rope.table();
  args.output = buffers.attended;
  args.output_dtype = run.sizes.dtype;
  return args;
}

// Blocks of this rank, and what ListKeys needs to list their keys.
struct OwnBlocks {
  std::vector<cuda::AttentionBlock> blocks;
  std::vector<cuda::KeyRanges> ranges;
  int64_t listed = 0;  // keys of all

  // selection: its row of the selections.
  void Add(const CudaRun& run, const PrefillBlock& block, int64_t first_row, int64_t selection) {
    cuda::AttentionBlock& list = blocks.emplace_back();
    list.first_row = block.row - first_row;
    list.queries = block.tokens.size();
    list.first_position = block.tokens.begin;
    list.first_key = listed;
    list.far_keys = block.ranges.initial.size() + NumSelected(run, block.ranges);
    list.near_keys = block.ranges.near.size();
    listed += list.far_keys + list.near_keys;
    LONGSPAN_CHECK(listed <= run.sizes.own_blocks * run.sizes.listed_keys);
    ranges.push_back({block.ranges.initial, block.ranges.near, selection});
  }
  int64_t max_queries() const {
    int64_t most = 0;
    for (const cuda::AttentionBlock& block : blocks) most = std::max(most, block.queries);
    return most;
  }
};

// row_of: device, of keys that were brought; null: they are read where they are.
absl::Status ListKeysOf(CudaRun* run, const cuda::AttentionBlock* blocks,
                        const cuda::KeyRanges* ranges, size_t num_blocks, const uint32_t* row_of) {
  const CudaPhaseSpan span(run->phases, Phase::kAttend);
  cuda::ListKeysArgs list;
  list.blocks = blocks;
  list.ranges = ranges;
  list.num_blocks = static_cast<int>(num_blocks);
  list.selected = run->sizes.top_k == 0 ? nullptr : run->buffers.selected;
  list.selected_stride = run->sizes.top_k;
  list.row_of = row_of;
  list.key_rows = run->buffers.key_rows;
  list.key_positions = run->buffers.key_positions;
  return cuda::ListKeys(list, run->stream());
}

// One rank and its device memory: keys are read where they are.
absl::Status AttendWherePagesAre(CudaRun* run, int64_t layer, KvShard* cache,
                                 absl::Span<const PrefillBlock> blocks, int64_t first_row,
                                 int64_t first_selection) {
  const CudaPhaseSpan span(run->phases, Phase::kAttend);
  const KvShape& kv = run->sizes.kv;
  std::vector<const std::byte*> pages;
  for (const PageRef& page : cache->pages()) pages.push_back(page->kv.get());
  OwnBlocks own;
  for (const PrefillBlock& block : blocks) {
    own.Add(*run, block, first_row, first_selection + std::ssize(own.blocks));
  }
  Parameters parameters;
  const int64_t pages_at = parameters.Add<const std::byte*>(pages);
  const int64_t blocks_at = parameters.Add<cuda::AttentionBlock>(own.blocks);
  const int64_t ranges_at = parameters.Add<cuda::KeyRanges>(own.ranges);
  LONGSPAN_RETURN_IF_ERROR(parameters.Upload(*run));

  cuda::PrefillAttentionArgs args = AttentionArgs(*run);
  args.rows.pages = parameters.Uploaded<const std::byte*>(*run, pages_at);
  args.rows.page_rows = kv.stripe_tokens;
  args.rows.key_offset = kv.key_offset(layer);
  args.rows.value_offset = kv.value_offset(layer);
  args.rows.row_stride = kv.row_bytes();
  args.blocks = parameters.Uploaded<cuda::AttentionBlock>(*run, blocks_at);
  args.num_blocks = static_cast<int>(blocks.size());
  args.max_queries = own.max_queries();
  LONGSPAN_RETURN_IF_ERROR(ListKeysOf(run, args.blocks,
                                      parameters.Uploaded<cuda::KeyRanges>(*run, ranges_at),
                                      blocks.size(), /*row_of=*/nullptr));
  return cuda::PrefillAttention(args, run->stream());
}

// Several ranks, or a cache on the host: what this rank's blocks read is brought here, for one
// group of them while those before attend.
absl::Status AttendWhatArrives(CudaRun* run, int64_t layer, KvShard* cache,
                               absl::Span<const PrefillBlock> blocks, int64_t first_row,
                               int64_t first_selection) {
  const CudaPhaseSpan span(run->phases, Phase::kRingWait);
  std::vector<const std::byte*> pages = {run->buffers.arrived};
  for (const PageRef& page : cache->pages()) pages.push_back(page->kv.get());
  std::vector<int> owners;
  for (const PrefillBlock& block : blocks) owners.push_back(block.rank);
  std::vector<cuda::RingBlock> all;
  OwnBlocks own;
  std::vector<size_t> own_ends;  // [groups]
  int64_t positions = 0;
  for (const std::vector<size_t>& group : RingGroups(owners, run->ranks(), kRingGroups)) {
    for (const size_t b : group) {
      const PrefillBlock& block = blocks[b];
      const int64_t selection = first_selection + static_cast<int64_t>(b);
      all.push_back({{block.ranges.initial, block.ranges.near, selection},
                     NumSelected(*run, block.ranges),
                     block.rank,
                     static_cast<int32_t>(own_ends.size())});
      positions = std::max({positions, block.ranges.initial.end, block.ranges.near.end});
      if (block.rank == run->rank()) own.Add(*run, block, first_row, selection);
    }
    own_ends.push_back(own.blocks.size());
  }
  Parameters parameters;
  const int64_t pages_at = parameters.Add<const std::byte*>(pages);
  const int64_t all_at = parameters.Add<cuda::RingBlock>(all);
  const int64_t blocks_at = parameters.Add<cuda::AttentionBlock>(own.blocks);
  const int64_t ranges_at = parameters.Add<cuda::KeyRanges>(own.ranges);
  LONGSPAN_RETURN_IF_ERROR(parameters.Upload(*run));

  const auto* const uploaded_pages = parameters.Uploaded<const std::byte*>(*run, pages_at);
  KeyRing ring(run, layer, uploaded_pages + 1);
  LONGSPAN_RETURN_IF_ERROR(ring.Plan(parameters.Uploaded<cuda::RingBlock>(*run, all_at),
                                     static_cast<int>(all.size()),
                                     static_cast<int>(own_ends.size()), positions));
  cuda::PrefillAttentionArgs args = AttentionArgs(*run);
  args.blocks = parameters.Uploaded<cuda::AttentionBlock>(*run, blocks_at);
  args.max_queries = own.max_queries();
  const int64_t row_bytes = run->sizes.kv.row_bytes();
  args.rows.pages = uploaded_pages;
  args.rows.page_rows = std::numeric_limits<uint32_t>::max();
  args.rows.key_offset = 0;
  args.rows.value_offset = row_bytes;
  args.rows.row_stride = 2 * row_bytes;
  LONGSPAN_RETURN_IF_ERROR(ListKeysOf(run, args.blocks,
                                      parameters.Uploaded<cuda::KeyRanges>(*run, ranges_at),
                                      own.blocks.size(), run->buffers.row_of));
  size_t done = 0;
  for (size_t group = 0; group < own_ends.size(); ++group) {
    LONGSPAN_RETURN_IF_ERROR(ring.Bring(static_cast<int>(group)));
    args.num_blocks = static_cast<int>(own_ends[group] - done);
    if (args.num_blocks > 0) {
      const CudaPhaseSpan attending(run->phases, Phase::kAttend);
      LONGSPAN_RETURN_IF_ERROR(cuda::PrefillAttention(args, run->stream()));
    }
    args.blocks += args.num_blocks;
    done = own_ends[group];
  }
  return absl::OkStatus();
}

// The blocks of this rank; of `blocks`, the first of which selected row `first_selection` of the
// selections.
absl::Status Attend(CudaRun* run, int64_t layer, KvShard* cache,
                    absl::Span<const PrefillBlock> blocks, int64_t first_row,
                    int64_t first_selection) {
  return run->reads_pages()
             ? AttendWherePagesAre(run, layer, cache, blocks, first_row, first_selection)
             : AttendWhatArrives(run, layer, cache, blocks, first_row, first_selection);
}

// Each rank attends with its own keys; the partials are gathered and merged.
absl::Status AttendByPartials(CudaRun* run, int64_t layer, const CudaStep& step) {
  const CudaPhaseSpan span(run->phases, Phase::kAttend);
  CudaBuffers& buffers = run->buffers;
  const AttentionContext& context = *run->context;
  const bool alone = run->ranks() == 1;
  const int64_t output_floats = step.rows * run->sizes.shape.query_dim();
  const int64_t part = output_floats + step.rows * run->sizes.shape.heads;
  cuda::DecodeAttentionArgs args;
  args.shape = run->sizes.shape;
  args.dtype = run->sizes.kv.dtype;
  args.geometry = run->geometry();
  args.key_offset = run->sizes.kv.key_offset(layer);
  args.value_offset = run->sizes.kv.value_offset(layer);
  args.rows = step.sequences;
  args.num_rows = step.rows;
  args.queries = buffers.queries;
  args.initial_tokens = context.sizes.initial_tokens;
  args.local_tokens = context.sizes.local_tokens;
  args.dense = context.sizes.dense;
  args.far_is_apart = context.esa.positions == Positions::kFar;
  args.far_position = context.esa.far_position;
  if (context.selects) {
    args.selected = buffers.selected;
    args.selected_stride = run->sizes.top_k;
    args.selected_counts = buffers.counts;
  }
  args.rope = run->rope.table();
  args.workspace = buffers.decode_workspace;
  args.workspace_bytes = buffers.decode_workspace_bytes;
  args.max_rows = static_cast<int>(run->sizes.sequences);
  args.multiprocessors = run->sizes.multiprocessors;
  args.output = alone ? buffers.attended : reinterpret_cast<std::byte*>(buffers.partial);
  args.output_dtype = alone ? run->sizes.dtype : DType::kFloat32;
  args.lse = alone ? buffers.decode_lse : buffers.partial + output_floats;
  LONGSPAN_RETURN_IF_ERROR(cuda::DecodeAttention(args, run->stream()));
  if (alone) return absl::OkStatus();
  const CudaPhaseSpan merging(run->phases, Phase::kPartialMerge);
  LONGSPAN_RETURN_IF_ERROR(
      run->gpu->communicator->AllGather("attend.partials", buffers.partial, buffers.partials,
                                        part * static_cast<int64_t>(sizeof(float)), run->stream()));
  cuda::MergePartialsArgs merge;
  merge.outputs = buffers.partials;
  merge.lse = buffers.partials + output_floats;
  merge.part_stride = part;
  merge.parts = run->ranks();
  merge.rows = step.rows;
  merge.heads = run->sizes.shape.heads;
  merge.head_dim = run->sizes.shape.head_dim;
  merge.output = buffers.attended;
  merge.output_dtype = run->sizes.dtype;
  return cuda::MergePartials(merge, run->stream());
}

// Bit for bit the same on any number of ranks: a token's owner has all its keys brought to it and
// attends to them in order of position, as in prefill; the result goes to all.
absl::Status AttendInOrder(CudaRun* run, int64_t layer, const CudaStep& step,
                           absl::Span<const PrefillBlock> blocks) {
  CudaBuffers& buffers = run->buffers;
  for (size_t t = 0; t < blocks.size(); ++t) {
    PrefillBlock block = blocks[t];
    block.row = static_cast<int64_t>(t);
    KvShard* cache = step.tokens[t].cache;
    LONGSPAN_RETURN_IF_ERROR(Attend(run, layer, cache, {&block, 1}, 0, static_cast<int64_t>(t)));
  }
  if (run->ranks() == 1) return absl::OkStatus();
  const CudaPhaseSpan span(run->phases, Phase::kPartialMerge);
  const int64_t row_bytes = run->sizes.shape.query_dim() * SizeOf(run->sizes.dtype);
  LONGSPAN_RETURN_IF_ERROR(run->gpu->communicator->AllGather(
      "attend.outputs", buffers.attended, buffers.outputs, step.rows * row_bytes, run->stream()));
  for (size_t t = 0; t < blocks.size(); ++t) {
    const int64_t row = blocks[t].rank * step.rows + static_cast<int64_t>(t);
    LONGSPAN_RETURN_IF_ERROR(cuda::Copy(buffers.attended + static_cast<int64_t>(t) * row_bytes,
                                        buffers.outputs + row * row_bytes, row_bytes,
                                        run->stream()));
  }
  return absl::OkStatus();
}

absl::Status StoreTokens(CudaRun* run, int64_t layer, const CudaStep& step) {
  const CudaPhaseSpan span(run->phases, Phase::kOtherCompute);
  CudaBuffers& buffers = run->buffers;
  const KvShape& kv = run->sizes.kv;
  cuda::StoreTokensArgs store;
  store.layer = run->cache_layer(layer);
  store.rows = step.sequences;
  store.pages_of = step.num_pages;
  store.num_rows = step.rows;
  store.keys = buffers.keys;
  store.values = buffers.values;
  if (run->sizes.low_rank()) {
    cuda::CompressTokensArgs compress;
    compress.shape = run->sizes.shape;
    compress.queries = buffers.queries;
    compress.keys = buffers.keys;
    compress.rows = step.rows;
    compress.query_factor = run->weights.layers[layer].query_factor;
    compress.key_factor = run->weights.layers[layer].key_factor;
    compress.dtype = run->sizes.dtype;
    compress.dim = kv.score_dim;
    compress.compressed_queries = buffers.token_queries;
    return cuda::CompressAndStoreTokens(compress, store, run->stream());
  }
  if (kv.score_dim > 0) {
    LONGSPAN_RETURN_IF_ERROR(
        ExactScoreQueries(run, step.rows, buffers.token_queries, DType::kFloat32));
  }
  return cuda::StoreTokens(store, run->stream());
}

}  // namespace

void CountAttended(const CudaRun& run, Range block) {
  const AttentionRanges ranges = RangesOfBlock(run.context->sizes, block);
  const int64_t far = ranges.initial.size() + NumSelected(run, ranges);
  for (int64_t p = block.begin; p < block.end; ++p) {
    run.context->counts->attended += far + p + 1 - ranges.near.begin;
    run.context->counts->dense += p + 1;
  }
}

absl::Status StoreChunkCuda(CudaRun* run, int64_t layer, const PrefillChunk& chunk) {
  const CudaPhaseSpan span(run->phases, Phase::kOtherCompute);
  CudaBuffers& buffers = run->buffers;
  const KvShape& kv = run->sizes.kv;
  cuda::StoreRunsArgs store;
  store.layer = run->cache_layer(layer);
  std::vector<cuda::StoredRun> runs;
  for (const PrefillBlock& block : chunk.blocks) {
    if (block.rank != run->rank()) continue;
    runs.push_back({block.row, block.tokens.size(), block.tokens.begin});
    store.max_count = std::max(store.max_count, block.tokens.size());
  }
  if (!runs.empty()) {
    std::vector<std::byte*> pages, score_pages;
    for (const PageRef& page : chunk.cache->pages()) {
      pages.push_back(page->kv.get());
      score_pages.push_back(page->score_base());
    }
    Parameters parameters;
    const int64_t pages_at = parameters.Add<std::byte*>(pages);
    const int64_t score_pages_at = parameters.Add<std::byte*>(score_pages);
    const int64_t runs_at = parameters.Add<cuda::StoredRun>(runs);
    LONGSPAN_RETURN_IF_ERROR(parameters.Upload(*run));
    store.pages = reinterpret_cast<std::byte* const*>(buffers.parameters + pages_at);
    store.score_pages = reinterpret_cast<std::byte* const*>(buffers.parameters + score_pages_at);
    store.num_pages = static_cast<int64_t>(pages.size());
    store.runs = reinterpret_cast<const cuda::StoredRun*>(buffers.parameters + runs_at);
    store.num_runs = static_cast<int>(runs.size());
    store.keys = buffers.keys;
    store.values = buffers.values;
    if (run->sizes.low_rank()) {
      LONGSPAN_RETURN_IF_ERROR(cuda::Convert(buffers.keys, DType::kFloat32, buffers.score_input,
                                             run->sizes.dtype, chunk.rows * kv.kv_dim,
                                             run->stream()));
      LONGSPAN_RETURN_IF_ERROR(Product(run, CudaStage::kPrefill, buffers.score_input, chunk.rows,
                                       kv.kv_dim, run->weights.layers[layer].key_factor,
                                       kv.score_dim, buffers.score_keys, DType::kFloat32));
      store.score_keys = buffers.score_keys;
    }
    LONGSPAN_RETURN_IF_ERROR(cuda::StoreRuns(store, run->stream()));
  }
  if (kv.score_dim == 0 || kv.halo == 0) return absl::OkStatus();
  // One rank has stored its own halos, but not those of cached tokens.
  if (run->ranks() == 1 && !chunk.behind_cached) return absl::OkStatus();
  return ExchangeHalosCuda(run, layer, chunk);
}

absl::Status AttendBlocksCuda(CudaRun* run, int64_t layer, KvShard* cache,
                              absl::Span<const PrefillBlock> blocks, int64_t first_row) {
  if (run->context->selects) {
    LONGSPAN_RETURN_IF_ERROR(SelectForBlocksCuda(run, layer, cache, blocks, first_row));
  }
  std::vector<std::vector<int64_t>> selections(blocks.size());
  if (run->context->on_selection) {
    LONGSPAN_ASSIGN_OR_RETURN(selections,
                              DownloadSelections(run, static_cast<int64_t>(blocks.size())));
  }
  for (size_t b = 0; b < blocks.size(); ++b) {
    CountAttended(*run, blocks[b].tokens);
    if (run->context->on_selection) {
      run->context->on_selection(layer, blocks[b].tokens, selections[b]);
    }
  }
  return Attend(run, layer, cache, blocks, first_row, /*first_selection=*/0);
}

absl::Status AttendTokensCuda(CudaRun* run, int64_t layer, const CudaStep& step) {
  LONGSPAN_RETURN_IF_ERROR(StoreTokens(run, layer, step));
  const AttentionContext& context = *run->context;
  if (context.selects) LONGSPAN_RETURN_IF_ERROR(SelectForTokensCuda(run, layer, step));
  if (context.on_selection) {
    LONGSPAN_ASSIGN_OR_RETURN(const std::vector<std::vector<int64_t>> selections,
                              DownloadSelections(run, step.rows));
    for (size_t t = 0; t < step.tokens.size(); ++t) {
      const int64_t position = step.tokens[t].position;
      context.on_selection(layer, {position, position + 1}, selections[t]);
    }
  }
  if (!context.deterministic) return AttendByPartials(run, layer, step);
  std::vector<PrefillBlock> blocks;
  for (const DecodeToken& token : step.tokens) {
    PrefillBlock& block = blocks.emplace_back();
    block.tokens = {token.position, token.position + 1};
    block.rank = context.layout.owner(token.position);
    block.ranges = RangesOfBlock(context.sizes, block.tokens);
  }
  return AttendInOrder(run, layer, step, blocks);
}

}  // namespace longspan
