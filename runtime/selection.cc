#include "runtime/selection.h"

#include <algorithm>
#include <functional>
#include <limits>
#include <memory>
#include <numeric>

#include "kernels/base/lane_gemm.h"
#include "kernels/base/status_macros.h"
#include "kernels/linear.h"
#include "kernels/score.h"
#include "kernels/select.h"
#include "runtime/layer_collectives.h"
#include "sharding/topk_merge.h"

namespace longspan {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();

void ApplyFactor(const AttentionContext& context, const std::vector<float>& factor, const float* x,
                 int64_t rows, bool decode, float* y) {
  LinearArgs args;
  args.x = x;
  args.rows = rows;
  args.in = context.shape.kv_dim();
  args.weight = factor.data();
  args.out = context.kv.score_dim;
  args.y = y;
  decode ? LinearFewRows(args) : Linear(args, context.panel_rows);
}

std::vector<float> CompressQueries(const AttentionContext& context, int64_t layer,
                                   const float* queries, int64_t rows, bool decode) {
  std::vector<float> sums = SumGroups(context.shape, queries, rows);
  if (context.exact()) return sums;
  std::vector<float> compressed(rows * context.kv.score_dim);
  ApplyFactor(context, context.factors[layer].query, sums.data(), rows, decode, compressed.data());
  return compressed;
}

// A block that has more to select from than it may take.
struct ScoredBlock {
  size_t index = 0;  // among all blocks
  Range middle;
  int64_t count = 0;  // queries
  std::vector<float> panels;
  float* maxima = nullptr;  // [lanes] of a buffer that blocks share

  // Of tiles of this rank's keys, run by run: what pass two may leave out.
  int64_t tile_keys = 0;
  const float* tile_maxima = nullptr;  // [tiles, lanes] of a buffer that groups of blocks share
  std::vector<float> bounds;           // [tiles]
  float threshold = -kInfinity;        // at least top_k keys of all ranks reach it

  int64_t lanes() const { return NumPanels(count) * kPanelLanes; }
};

ScoreKeys KeysOf(const AttentionContext& context, int64_t layer, KvShard* cache, int64_t page,
                 Range run) {
  return {cache->ScoreKey(layer, page, run.begin), context.kv.score_dtype, run.size()};
}

// Step 2: every rank gets the compressed queries of all scored blocks, packed for the kernels.
absl::Status ShareQueries(const AttentionContext& context, int64_t layer, const Collective& gather,
                          absl::Span<const PrefillBlock> blocks, int64_t first_row,
                          const float* queries, std::vector<ScoredBlock>* scored) {
  const int64_t dim = context.kv.score_dim;
  std::vector<float> mine;
  const int64_t panel = std::max<int64_t>(1, context.panel_rows);
  for (const ScoredBlock& block : *scored) {
    const PrefillBlock& source = blocks[block.index];
    if (source.rank != context.communicator->rank()) continue;
    const int64_t padded = (block.count + panel - 1) / panel * panel;
    const std::vector<float> compressed = CompressQueries(
        context, layer, queries + (source.row - first_row) * context.shape.query_dim(), padded,
        /*decode=*/false);
    mine.insert(mine.end(), compressed.begin(), compressed.begin() + block.count * dim);
  }
  std::vector<float> all;
  LONGSPAN_RETURN_IF_ERROR(AllGather(context.communicator, gather, mine, &all));

  std::vector<const float*> next(context.layout.num_ranks);  // rows of each rank's next block
  const float* from = all.data();
  for (int r = 0; r < context.layout.num_ranks; ++r) {
    next[r] = from;
    from += gather.bytes[r] / static_cast<int64_t>(sizeof(float));
  }
  for (ScoredBlock& block : *scored) {
    block.panels.resize(NumPanels(block.count) * dim * kPanelLanes);
    const float*& rows = next[blocks[block.index].rank];
    PackQueries(rows, block.count, dim, dim, block.panels.data());
    rows += block.count * dim;
  }
  return absl::OkStatus();
}

// Tile maxima of any group, uninitialised. The size is one for all chunks, as far as limits can be
// kept: buffers that grow with the context would leave the heap full of holes.
std::unique_ptr<float[]> MakeTileMaxima(const AttentionContext& context,
                                        absl::Span<const MaximaGroup> groups) {
  int64_t largest = context.limits.tile_group_bytes;
  for (const MaximaGroup& group : groups) largest = std::max(largest, group.tile_bytes);
  return std::unique_ptr<float[]>(new float[largest / static_cast<int64_t>(sizeof(float))]);
}

// Step 3, pass one: each query's maximum over its block's middle, over all ranks.
absl::Status AgreeOnMaxima(const AttentionContext& context, int64_t layer, KvShard* cache,
                           const MaximaGroup& group, absl::Span<ScoredBlock> scored,
                           std::vector<float>* maxima, float* tile_maxima) {
  maxima->assign(group.lanes, -kInfinity);
  float* next = maxima->data();
  for (size_t s = 0; s < scored.size(); ++s) {
    ScoredBlock& block = scored[s];
    block.tile_keys = group.tile_keys[s];
    block.maxima = next;
    next += block.lanes();
    block.tile_maxima = tile_maxima;
    int64_t tiles = 0;
    for (const Range& run : cache->layout().OwnedRuns(cache->rank(), block.middle)) {
      ScoreMaximaArgs args;
      args.queries = block.panels.data();
      args.num_panels = NumPanels(block.count);
      args.dim = context.kv.score_dim;
      args.keys = KeysOf(context, layer, cache, cache->layout().page(run.begin), run);
      args.maxima = block.maxima;
      args.tile_maxima = tile_maxima + tiles * block.lanes();
      args.tile_keys = block.tile_keys;
      ScoreMaxima(args);
      tiles += NumTiles(run.size(), block.tile_keys);
    }
    block.bounds.resize(tiles);
    tile_maxima += tiles * block.lanes();
  }
  LONGSPAN_RETURN_IF_ERROR(AllReduceMax(context.communicator, ReduceMaxima(group), maxima));
  for (ScoredBlock& block : scored) {
    std::fill(block.maxima + block.count, block.maxima + block.lanes(), kInfinity);
  }
  return absl::OkStatus();
}

// A score that top_k keys reach, over all ranks: if each of P ranks has top_k / P tiles whose best
// key reaches t, then the smallest t will do. What lies below it need not be scored again.
absl::Status AgreeOnThresholds(const AttentionContext& context, const MaximaGroup& group,
                               absl::Span<ScoredBlock> scored) {
  const int64_t ranks = context.layout.num_ranks;
  const int64_t share = (context.esa.top_k + ranks - 1) / ranks;
  std::vector<float> negated;  // so that the largest over the ranks is the smallest threshold
  for (ScoredBlock& block : scored) {
    TileBounds(block.tile_maxima, static_cast<int64_t>(block.bounds.size()), block.lanes(),
               block.maxima, block.bounds.data());
    std::vector<float> sorted = block.bounds;
    float threshold = -kInfinity;
    if (static_cast<int64_t>(sorted.size()) >= share) {
      std::nth_element(sorted.begin(), sorted.begin() + share - 1, sorted.end(), std::greater<>());
      threshold = sorted[share - 1];
    }
    negated.push_back(-threshold);
  }
  LONGSPAN_RETURN_IF_ERROR(AllReduceMax(context.communicator, ReduceThresholds(group), &negated));
  for (size_t s = 0; s < scored.size(); ++s) scored[s].threshold = -negated[s];
  return absl::OkStatus();
}

// `run` and its halo, as far as they are in `middle`.
Range WithHalo(Range run, int64_t halo, Range middle) {
  return Intersect({run.begin - halo, run.end + halo}, middle);
}

// The local part of step 4: this rank's top-k of one block. `score(run, range, out)` writes F of
// the positions of `range`, which is a run of one stripe and its halo.
template <typename Score>
void LocalTopK(const AttentionContext& context, KvShard* cache, Range middle, Score&& score,
               Candidate* out) {
  TopK top(context.esa.top_k);
  std::vector<float> scores, spread;
  for (const Range& run : cache->layout().OwnedRuns(cache->rank(), middle)) {
    const Range range = WithHalo(run, context.esa.proximity, middle);
    scores.resize(range.size());
    spread.resize(run.size());
    score(run, range, scores.data());
    Proximity(scores.data(), range.size(), context.esa.proximity, run.begin - range.begin,
              run.end - range.begin, spread.data());
    top.Add(spread.data(), run.size(), run.begin);
  }
  top.Take(out);
}

// Step 3, pass two: F of `range`, a run and its halo. Tiles that cannot reach the threshold are
// left at -inf: no position near them can be selected on their account.
class BlockScorer {
 public:
  BlockScorer(const AttentionContext& context, int64_t layer, KvShard* cache,
              const ScoredBlock& block)
      : context_(context), layer_(layer), cache_(cache), block_(block) {}

  void operator()(Range run, Range range, float* out) {
    std::fill_n(out, range.size(), -kInfinity);
    Range pending = {range.begin, run.begin};  // to be scored in one go
    const auto add = [&](Range next) {
      if (next.empty()) return;
      if (pending.end != next.begin) {
        Score(run, pending, out + (pending.begin - range.begin));
        pending.begin = next.begin;
      }
      pending.end = next.end;
    };
    for (int64_t m = run.begin; m < run.end; m += block_.tile_keys, ++tile_) {
      if (block_.bounds[tile_] < block_.threshold) continue;
      add({m, std::min(m + block_.tile_keys, run.end)});
    }
    add({run.end, range.end});
    Score(run, pending, out + (pending.begin - range.begin));
  }

 private:
  void Score(Range run, Range range, float* out) {
    if (range.empty()) return;
    ScoreBlockArgs args;
    args.queries = block_.panels.data();
    args.num_queries = block_.count;
    args.dim = context_.kv.score_dim;
    args.keys = KeysOf(context_, layer_, cache_, cache_->layout().page(run.begin), range);
    args.maxima = block_.maxima;
    args.scores = out;
    ScoreBlock(args);
  }

  const AttentionContext& context_;
  int64_t layer_;
  KvShard* cache_;
  const ScoredBlock& block_;
  size_t tile_ = 0;  // of the next run's first tile
};

std::vector<int64_t> AllOf(Range range) {
  std::vector<int64_t> positions(range.size());
  std::iota(positions.begin(), positions.end(), range.begin);
  return positions;
}

}  // namespace

std::vector<float> SumGroups(const AttentionShape& shape, const float* queries, int64_t rows) {
  std::vector<float> sums(rows * shape.kv_dim(), 0.0f);
  for (int64_t r = 0; r < rows; ++r) {
    for (int64_t h = 0; h < shape.heads; ++h) {
      const float* query = queries + (r * shape.heads + h) * shape.head_dim;
      float* sum = sums.data() + r * shape.kv_dim() + h / shape.group() * shape.head_dim;
      for (int64_t d = 0; d < shape.head_dim; ++d) sum[d] += query[d];
    }
  }
  return sums;
}

void CompressKeys(const AttentionContext& context, int64_t layer, const float* keys, int64_t rows,
                  bool decode, float* out) {
  const PhaseSpan span(context.phases, Phase::kScore);
  ApplyFactor(context, context.factors[layer].key, keys, rows, decode, out);
}

absl::StatusOr<Selections> SelectForBlocks(const AttentionContext& context, int64_t layer,
                                           KvShard* cache, absl::Span<const PrefillBlock> blocks,
                                           int64_t first_row, const float* queries) {
  Selections selections(blocks.size());
  if (!context.selects) return selections;
  const PhaseSpan span(context.phases, Phase::kScore);
  std::vector<ScoredBlock> scored;
  std::vector<SelectingBlock> selecting;  // the same blocks
  for (size_t b = 0; b < blocks.size(); ++b) {
    const Range middle = blocks[b].ranges.middle;
    if (middle.size() <= context.esa.top_k) {
      selections[b] = AllOf(middle);
    } else {
      scored.push_back({.index = b, .middle = middle, .count = blocks[b].tokens.size()});
      selecting.push_back({blocks[b].rank, blocks[b].tokens.size(), middle});
    }
  }
  if (scored.empty()) return selections;

  const LayerShape shape = LayerShapeOf(context);
  LONGSPAN_RETURN_IF_ERROR(ShareQueries(context, layer, GatherQueries(shape, selecting), blocks,
                                        first_row, queries, &scored));
  std::vector<Candidate> candidates(scored.size() * context.esa.top_k);
  Candidate* next = candidates.data();
  const std::vector<MaximaGroup> groups = GroupMaxima(shape, selecting);
  const std::unique_ptr<float[]> tile_maxima = MakeTileMaxima(context, groups);
  std::vector<float> maxima;
  absl::Span<ScoredBlock> rest = absl::MakeSpan(scored);
  for (const MaximaGroup& group : groups) {
    const absl::Span<ScoredBlock> of_group = rest.first(group.tile_keys.size());
    rest.remove_prefix(of_group.size());
    LONGSPAN_RETURN_IF_ERROR(
        AgreeOnMaxima(context, layer, cache, group, of_group, &maxima, tile_maxima.get()));
    LONGSPAN_RETURN_IF_ERROR(AgreeOnThresholds(context, group, of_group));
    for (const ScoredBlock& block : of_group) {
      LocalTopK(context, cache, block.middle, BlockScorer(context, layer, cache, block), next);
      next += context.esa.top_k;
      context.communicator->Progress();
    }
  }
  LONGSPAN_ASSIGN_OR_RETURN(
      Selections merged,
      MergeCandidates(context, absl::MakeSpan(candidates), static_cast<int64_t>(scored.size())));
  for (size_t s = 0; s < scored.size(); ++s) {
    selections[scored[s].index] = std::move(merged[s]);
  }
  return selections;
}

absl::StatusOr<Selections> SelectForTokens(const AttentionContext& context, int64_t layer,
                                           absl::Span<const DecodeToken> tokens,
                                           const float* queries) {
  Selections selections(tokens.size());
  if (!context.selects) return selections;
  const PhaseSpan span(context.phases, Phase::kScore);
  std::vector<size_t> scored;
  for (size_t t = 0; t < tokens.size(); ++t) {
    const Range block = {tokens[t].position, tokens[t].position + 1};
    const Range middle = RangesOfBlock(context.sizes, block).middle;
    if (middle.size() <= context.esa.top_k) {
      selections[t] = AllOf(middle);
    } else {
      scored.push_back(t);
    }
  }
  if (scored.empty()) return selections;

  const int64_t dim = context.kv.score_dim;
  const std::vector<float> compressed = CompressQueries(
      context, layer, queries, static_cast<int64_t>(tokens.size()), /*decode=*/true);
  std::vector<Candidate> candidates(scored.size() * context.esa.top_k);
  for (size_t s = 0; s < scored.size(); ++s) {
    const DecodeToken& token = tokens[scored[s]];
    const auto score = [&](Range run, Range range, float* out) {
      const int64_t page = token.cache->layout().page(run.begin);
      ScoreToken(compressed.data() + scored[s] * dim, dim,
                 KeysOf(context, layer, token.cache, page, range), out);
    };
    const Range block = {token.position, token.position + 1};
    LocalTopK(context, token.cache, RangesOfBlock(context.sizes, block).middle, score,
              candidates.data() + s * context.esa.top_k);
  }
  LONGSPAN_ASSIGN_OR_RETURN(
      Selections merged,
      MergeCandidates(context, absl::MakeSpan(candidates), static_cast<int64_t>(scored.size())));
  for (size_t s = 0; s < scored.size(); ++s) selections[scored[s]] = std::move(merged[s]);
  return selections;
}

}  // namespace longspan
