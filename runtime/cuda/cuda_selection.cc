#include "runtime/cuda/cuda_selection.h"

#include <algorithm>

#include "kernels/base/status_macros.h"
#include "kernels/cuda/digit_select.h"
#include "kernels/cuda/key_list.h"
#include "kernels/cuda/merge.h"
#include "kernels/cuda/prefill_score.h"
#include "kernels/cuda/rope.h"
#include "runtime/cuda/cuda_votes.h"
#include "sharding/digit_select.h"
#include "sharding/merge_choice.h"

namespace longspan {
namespace {

using cuda::ScoredBlock;

// Where the queries of each rank's blocks lie: every rank's rows are one part of the gathered ones.
struct QueryRows {
  std::vector<int64_t> first;  // [blocks] row within the rank's part
  int64_t per_rank = 0;        // rows of each part
};

QueryRows PlanQueryRows(const CudaRun& run, absl::Span<const PrefillBlock> blocks) {
  const int64_t panel = std::max<int64_t>(1, run.context->panel_rows);
  std::vector<int64_t> next(run.ranks(), 0);
  QueryRows rows;
  for (const PrefillBlock& block : blocks) {
    rows.first.push_back(next[block.rank]);
    next[block.rank] += (block.tokens.size() + panel - 1) / panel * panel;
  }
  rows.per_rank = *std::max_element(next.begin(), next.end());
  return rows;
}

Range Hull(absl::Span<const PrefillBlock> blocks) {
  Range hull;
  for (const PrefillBlock& block : blocks) {
    const Range middle = block.ranges.middle;
    if (middle.empty()) continue;
    hull = hull.empty() ? middle
                        : Range{std::min(hull.begin, middle.begin), std::max(hull.end, middle.end)};
  }
  return hull;
}

// What the score reads of this rank's queries, and of all ranks'.
absl::StatusOr<const void*> ScoreQueries(CudaRun* run, int64_t layer, int64_t rows,
                                         int64_t per_rank) {
  CudaBuffers& buffers = run->buffers;
  const KvShape& kv = run->sizes.kv;
  const bool low_rank = run->sizes.low_rank();
  const DType dtype = run->sizes.score_query_dtype();
  std::byte* const mine = low_rank ? buffers.score_queries : buffers.score_input;
  if (!low_rank) {
    LONGSPAN_RETURN_IF_ERROR(ExactScoreQueries(run, rows, mine, dtype));
  } else if (rows > 0) {
    LONGSPAN_RETURN_IF_ERROR(cuda::SumGroups(
        {run->sizes.shape, buffers.queries, rows, buffers.score_input, run->sizes.dtype},
        run->stream()));
    // Of float32 first, for the cache's dtype may be another than that of products.
    LONGSPAN_RETURN_IF_ERROR(Product(run, CudaStage::kPrefill, buffers.score_input, rows, kv.kv_dim,
                                     run->weights.layers[layer].query_factor, kv.score_dim,
                                     buffers.score_keys, DType::kFloat32));
    LONGSPAN_RETURN_IF_ERROR(cuda::Convert(buffers.score_keys, DType::kFloat32, mine, dtype,
                                           rows * kv.score_dim, run->stream()));
  }
  if (run->ranks() == 1) return mine;
  const CudaPhaseSpan span(run->phases, Phase::kQueryGather);
  LONGSPAN_RETURN_IF_ERROR(run->gpu->communicator->AllGather(
      "select.queries", mine, buffers.gathered_queries,
      per_rank * run->sizes.voters.query_dim() * SizeOf(dtype), run->stream()));
  return buffers.gathered_queries;
}

absl::Status MergeByAllGather(CudaRun* run, int64_t rows) {
  CudaBuffers& buffers = run->buffers;
  const int64_t top_k = run->sizes.top_k;
  LONGSPAN_RETURN_IF_ERROR(run->gpu->communicator->AllGather(
      "select.candidates", buffers.candidates, buffers.gathered,
      rows * top_k * static_cast<int64_t>(sizeof(Candidate)), run->stream()));
  cuda::MergeCandidatesArgs args;
  args.candidates = buffers.gathered;
  args.num_ranks = run->ranks();
  args.rows = rows;
  args.top_k = top_k;
  args.selected = buffers.selected;
  args.counts = buffers.counts;
  args.workspace = buffers.merge;
  return cuda::MergeCandidates(args, run->stream());
}

absl::Status MergeByHistogram(CudaRun* run, int64_t rows) {
  CudaBuffers& buffers = run->buffers;
  const auto sum = [&](const char* name, uint32_t* numbers, int64_t of_row) {
    return run->gpu->communicator->AllReduceSum(name, numbers, rows * of_row, run->stream());
  };
  cuda::DigitSelectArgs args;
  args.candidates = buffers.candidates;
  args.rank = run->rank();
  args.num_ranks = run->ranks();
  args.rows = rows;
  args.top_k = run->sizes.top_k;
  args.brackets = buffers.brackets;
  args.sums = buffers.digit_sums;
  args.last_sums = buffers.last_sums;
  args.winners = buffers.winners;
  args.selected = buffers.selected;
  args.counts = buffers.counts;
  for (int digit = 0; digit < kDigits; ++digit) {
    LONGSPAN_RETURN_IF_ERROR(cuda::CountDigit(args, digit, run->stream()));
    LONGSPAN_RETURN_IF_ERROR(
        sum("select.histograms", cuda::SumsOf(args, digit), DigitSums(digit, run->ranks())));
  }
  LONGSPAN_RETURN_IF_ERROR(cuda::PlaceWinners(args, run->stream()));
  LONGSPAN_RETURN_IF_ERROR(sum("select.winners", args.winners, args.top_k));
  return cuda::OrderWinners(args, run->stream());
}

// This rank's candidates become everybody's selections.
absl::Status MergeRanks(CudaRun* run, int64_t rows) {
  const CudaPhaseSpan span(run->phases, Phase::kCandidateMerge);
  return run->sizes.WayToMerge(rows) == MergeWay::kHistogram ? MergeByHistogram(run, rows)
                                                             : MergeByAllGather(run, rows);
}

// Where this rank's own selection goes: one that is alone has no more to do.
cuda::Selected Destination(CudaRun* run) {
  CudaBuffers& buffers = run->buffers;
  return run->ranks() == 1 ? cuda::Selected{buffers.selected, buffers.counts}
                           : cuda::Selected{buffers.candidates, buffers.own_counts};
}

// The top-k of scores [rows, count] in run->buffers, those of this rank's positions from
// `first_position` on. blocks: whose middles they are.
absl::Status TakeOwn(CudaRun* run, const cuda::SelectWorkspace& workspace,
                     const ScoredBlock* blocks, int rows, int64_t first_position, int64_t count) {
  const int64_t top_k = run->sizes.top_k;
  const cuda::Selected selected = Destination(run);
  if (count <= 0) {
    LONGSPAN_RETURN_IF_ERROR(cuda::Fill(selected.candidates, 0,
                                        rows * top_k * static_cast<int64_t>(sizeof(Candidate)),
                                        run->stream()));
    return cuda::Fill(selected.counts, 0, rows * static_cast<int64_t>(sizeof(int32_t)),
                      run->stream());
  }
  cuda::TopKArgs top;
  top.scores = run->buffers.scores;
  top.row_stride = count;
  top.count = count;
  top.rows = rows;
  top.top_k = top_k;
  top.selected = selected;
  LONGSPAN_RETURN_IF_ERROR(cuda::TopK(top, workspace, run->stream()));
  cuda::LocateCandidatesArgs locate;
  locate.geometry = run->geometry();
  locate.blocks = blocks;
  locate.num_blocks = rows;
  locate.hull_begin = first_position;
  locate.top_k = top_k;
  locate.candidates = selected.candidates;
  locate.counts = selected.counts;
  return cuda::LocateCandidates(locate, run->stream());
}

// Scores of a chunk's blocks, by what all ranks agree on, and this rank's top-k. rows: of the
// gathered queries.
absl::Status SelectOwn(CudaRun* run, const cuda::PrefillScoreArgs& score, int64_t rows) {
  CudaBuffers& buffers = run->buffers;
  const cuda::ShardGeometry geometry = run->geometry();
  cuda::PrefillScoresOut out;
  out.scores = buffers.scores;
  out.row_stride = geometry.OwnedBefore(score.hull.end) - geometry.OwnedBefore(score.hull.begin);
  out.proximity = static_cast<int32_t>(run->context->esa.proximity);
  out.workspace = buffers.spread;
  if (run->sizes.votes) {
    LONGSPAN_RETURN_IF_ERROR(ScoreBlocksByVotesCuda(run, score, rows, out));
  } else {
    LONGSPAN_RETURN_IF_ERROR(cuda::PrefillMaxima(score, buffers.maxima, run->stream()));
    LONGSPAN_RETURN_IF_ERROR(ReduceMaxima(run, rows));
    LONGSPAN_RETURN_IF_ERROR(cuda::PrefillScores(score, buffers.maxima, out, run->stream()));
  }
  return TakeOwn(run, run->prefill_select, score.blocks, score.num_blocks, score.hull.begin,
                 out.row_stride);
}

// The same of a step's tokens.
absl::Status SelectOwnOfTokens(CudaRun* run, const cuda::DecodeSelectArgs& args) {
  if (!run->sizes.votes) return cuda::DecodeSelect(args, run->decode_select, run->stream());
  const cuda::ShardGeometry geometry = run->geometry();
  const int64_t count =
      geometry.OwnedBefore(run->sizes.max_tokens) - geometry.OwnedBefore(args.initial_tokens);
  LONGSPAN_RETURN_IF_ERROR(ScoreTokensByVotesCuda(run, args, count));
  return TakeOwn(run, run->decode_select, run->buffers.vote_blocks, args.rows, args.initial_tokens,
                 count);
}

}  // namespace

absl::Status ExactScoreQueries(CudaRun* run, int64_t rows, void* to, DType dtype) {
  const AttentionContext& context = *run->context;
  const AttentionShape& shape = run->sizes.shape;
  const bool heads = context.score_reads_heads();
  const float* queries = run->buffers.queries;
  if (context.esa.target == ScoreTarget::kFar) {
    cuda::RotateRowsArgs rotate;
    rotate.table = run->rope.table();
    rotate.x = queries;
    rotate.rows = rows;
    rotate.heads = shape.heads;
    rotate.first_position = context.esa.far_position;
    rotate.position_step = 0;
    rotate.out = heads ? to : run->buffers.stacked;
    rotate.out_dtype = heads ? dtype : DType::kFloat32;
    LONGSPAN_RETURN_IF_ERROR(cuda::RotateRows(rotate, run->stream()));
    if (heads) return absl::OkStatus();
    queries = run->buffers.stacked;
  }
  if (heads) {
    return cuda::Convert(queries, DType::kFloat32, to, dtype, rows * shape.query_dim(),
                         run->stream());
  }
  return cuda::SumGroups({shape, queries, rows, to, dtype}, run->stream());
}

absl::Status SelectForBlocksCuda(CudaRun* run, int64_t layer, KvShard* cache,
                                 absl::Span<const PrefillBlock> blocks, int64_t first_row) {
  const CudaPhaseSpan span(run->phases, Phase::kScore);
  CudaBuffers& buffers = run->buffers;
  const KvShape& kv = run->sizes.kv;
  const auto num_blocks = static_cast<int>(blocks.size());
  const Range hull = Hull(blocks);
  if (hull.empty()) {
    return cuda::Fill(buffers.counts, 0, num_blocks * static_cast<int64_t>(sizeof(int32_t)),
                      run->stream());
  }
  const QueryRows query_rows = PlanQueryRows(*run, blocks);
  int64_t own_rows = 0;
  cuda::PrefillScoreArgs score;
  Parameters parameters;
  std::vector<const std::byte*> pages;
  for (const PageRef& page : cache->pages()) pages.push_back(page->score_base());
  const int64_t pages_at = parameters.Add<const std::byte*>(pages);
  std::vector<ScoredBlock> scored;
  for (size_t b = 0; b < blocks.size(); ++b) {
    ScoredBlock& block = scored.emplace_back();
    block.first_query = blocks[b].rank * query_rows.per_rank + query_rows.first[b];
    block.queries = blocks[b].ranges.middle.empty() ? 0 : blocks[b].tokens.size();
    // An empty middle begins nowhere.
    block.middle =
        blocks[b].ranges.middle.empty() ? Range{hull.begin, hull.begin} : blocks[b].ranges.middle;
    score.max_queries = std::max(score.max_queries, blocks[b].tokens.size());
    if (blocks[b].rank == run->rank()) {
      own_rows = std::max(own_rows, blocks[b].row - first_row + blocks[b].tokens.size());
    }
  }
  const int64_t panel = std::max<int64_t>(1, run->context->panel_rows);
  own_rows = (own_rows + panel - 1) / panel * panel;
  const int64_t blocks_at = parameters.Add<ScoredBlock>(scored);
  LONGSPAN_RETURN_IF_ERROR(parameters.Upload(*run));

  LONGSPAN_ASSIGN_OR_RETURN(score.queries, ScoreQueries(run, layer, own_rows, query_rows.per_rank));
  score.pages = reinterpret_cast<const std::byte* const*>(buffers.parameters + pages_at);
  score.geometry = run->geometry();
  score.dtype = kv.score_dtype;
  score.dim = kv.score_dim;
  score.halo = static_cast<int32_t>(kv.halo);
  score.score_offset = kv.score_offset(layer);
  score.blocks = reinterpret_cast<const ScoredBlock*>(buffers.parameters + blocks_at);
  score.num_blocks = num_blocks;
  score.hull = hull;
  LONGSPAN_RETURN_IF_ERROR(SelectOwn(run, score, run->ranks() * query_rows.per_rank));
  return run->ranks() == 1 ? absl::OkStatus() : MergeRanks(run, num_blocks);
}

absl::Status SelectForTokensCuda(CudaRun* run, int64_t layer, const CudaStep& step) {
  const CudaPhaseSpan span(run->phases, Phase::kScore);
  const KvShape& kv = run->sizes.kv;
  const EsaConfig& esa = run->context->esa;
  cuda::DecodeSelectArgs args;
  args.sequences = step.sequences;
  args.max_tokens = run->sizes.own_tokens;
  args.rows = step.rows;
  args.queries = run->buffers.token_queries;
  args.dim = kv.score_dim;
  args.dtype = kv.score_dtype;
  args.geometry = run->geometry();
  args.halo = static_cast<int32_t>(kv.halo);
  args.score_offset = kv.score_offset(layer);
  args.initial_tokens = esa.initial_tokens;
  args.local_tokens = esa.local_tokens;
  args.proximity = static_cast<int32_t>(esa.proximity);
  args.top_k = esa.top_k;
  args.selected = Destination(run);
  LONGSPAN_RETURN_IF_ERROR(SelectOwnOfTokens(run, args));
  return run->ranks() == 1 ? absl::OkStatus() : MergeRanks(run, step.rows);
}

absl::StatusOr<std::vector<std::vector<int64_t>>> DownloadSelections(CudaRun* run, int64_t rows) {
  const int64_t top_k = run->sizes.top_k;
  std::vector<std::vector<int64_t>> selections(rows);
  if (top_k == 0) return selections;
  std::vector<Candidate> selected(rows * top_k);
  std::vector<int32_t> counts(rows);
  // Copies to memory that is not page-locked wait without a limit, so what may hang comes first.
  LONGSPAN_RETURN_IF_ERROR(run->gpu->communicator->Synchronize(run->stream()));
  LONGSPAN_RETURN_IF_ERROR(cuda::Copy(selected.data(), run->buffers.selected,
                                      rows * top_k * static_cast<int64_t>(sizeof(Candidate)),
                                      run->stream()));
  LONGSPAN_RETURN_IF_ERROR(cuda::Copy(counts.data(), run->buffers.counts,
                                      rows * static_cast<int64_t>(sizeof(int32_t)), run->stream()));
  LONGSPAN_RETURN_IF_ERROR(cuda::Synchronize(run->stream()));
  for (int64_t row = 0; row < rows; ++row) {
    for (int32_t i = 0; i < counts[row]; ++i) {
      selections[row].push_back(PositionOf(selected[row * top_k + i]));
    }
  }
  return selections;
}

}  // namespace longspan
