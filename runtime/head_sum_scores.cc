#include "runtime/head_sum_scores.h"

#include <algorithm>
#include <functional>
#include <limits>
#include <memory>

#include "kernels/base/status_macros.h"
#include "runtime/layer_collectives.h"

namespace longspan {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();

// A block under way.
struct TiledBlock {
  const ScoredBlock* block = nullptr;
  float* maxima = nullptr;  // [lanes] of a buffer that blocks share

  // Of tiles of this rank's keys, run by run: what pass two may leave out.
  int64_t tile_keys = 0;
  const float* tile_maxima = nullptr;  // [tiles, lanes] of a buffer that groups of blocks share
  std::vector<float> bounds;           // [tiles]
  float threshold = -kInfinity;        // at least top_k keys of all ranks reach it
};

// Tile maxima of any group, uninitialised. The size is one for all chunks, as far as limits can be
// kept: buffers that grow with the context would leave the heap full of holes.
std::unique_ptr<float[]> MakeTileMaxima(const AttentionContext& context,
                                        absl::Span<const MaximaGroup> groups) {
  int64_t largest = context.limits.tile_group_bytes;
  for (const MaximaGroup& group : groups) largest = std::max(largest, group.tile_bytes);
  return std::unique_ptr<float[]>(new float[largest / static_cast<int64_t>(sizeof(float))]);
}

// Pass one: each query's maximum over its block's middle, over all ranks.
absl::Status AgreeOnMaxima(const AttentionContext& context, const ScoreSource& source,
                           const MaximaGroup& group, absl::Span<TiledBlock> tiled,
                           std::vector<float>* maxima, float* tile_maxima) {
  maxima->assign(group.lanes, -kInfinity);
  float* next = maxima->data();
  for (size_t s = 0; s < tiled.size(); ++s) {
    TiledBlock& under_way = tiled[s];
    const ScoredBlock& block = *under_way.block;
    under_way.tile_keys = group.tile_keys[s];
    under_way.maxima = next;
    next += block.lanes();
    under_way.tile_maxima = tile_maxima;
    int64_t tiles = 0;
    for (const Range& run : source.Runs(block.middle)) {
      ScoreMaximaArgs args;
      args.queries = block.panels.data();
      args.num_panels = block.num_panels();
      args.dim = context.kv.score_dim;
      args.keys = source.keys(run, run);
      args.maxima = under_way.maxima;
      args.tile_maxima = tile_maxima + tiles * block.lanes();
      args.tile_keys = under_way.tile_keys;
      ScoreMaxima(args);
      tiles += NumTiles(run.size(), under_way.tile_keys);
    }
    under_way.bounds.resize(tiles);
    tile_maxima += tiles * block.lanes();
  }
  LONGSPAN_RETURN_IF_ERROR(AllReduceMax(context.communicator, ReduceMaxima(group), maxima));
  for (TiledBlock& under_way : tiled) {
    std::fill(under_way.maxima + under_way.block->count,
              under_way.maxima + under_way.block->lanes(), kInfinity);
  }
  return absl::OkStatus();
}

// A score that top_k keys reach, over all ranks: if each of P ranks has top_k / P tiles whose best
// key reaches t, then the smallest t will do. What lies below it need not be scored again.
absl::Status AgreeOnThresholds(const AttentionContext& context, const ScoreSource& source,
                               const MaximaGroup& group, absl::Span<TiledBlock> tiled) {
  const int64_t ranks = context.layout.num_ranks;
  const int64_t share = (source.top_k + ranks - 1) / ranks;
  std::vector<float> negated;  // so that the largest over the ranks is the smallest threshold
  for (TiledBlock& block : tiled) {
    TileBounds(block.tile_maxima, static_cast<int64_t>(block.bounds.size()), block.block->lanes(),
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
  for (size_t s = 0; s < tiled.size(); ++s) tiled[s].threshold = -negated[s];
  return absl::OkStatus();
}

// Pass two: F of `range`, a run and its halo. Tiles that cannot reach the threshold are left at
// -inf: no position near them can be selected on their account.
class BlockScorer {
 public:
  BlockScorer(const AttentionContext& context, const ScoreSource& source, const TiledBlock& block)
      : context_(context), source_(source), block_(block) {}

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
    args.queries = block_.block->panels.data();
    args.num_queries = block_.block->count;
    args.dim = context_.kv.score_dim;
    args.keys = source_.keys(run, range);
    args.maxima = block_.maxima;
    args.scores = out;
    ScoreBlock(args);
  }

  const AttentionContext& context_;
  const ScoreSource& source_;
  const TiledBlock& block_;
  size_t tile_ = 0;  // of the next run's first tile
};

}  // namespace

absl::Status ScoreByHeadSum(const AttentionContext& context, const ScoreSource& source,
                            absl::Span<const SelectingBlock> selecting,
                            absl::Span<const ScoredBlock> blocks, Candidate* candidates) {
  const std::vector<MaximaGroup> groups = GroupMaxima(LayerShapeOf(context), selecting);
  const std::unique_ptr<float[]> tile_maxima = MakeTileMaxima(context, groups);
  std::vector<float> maxima;
  for (const MaximaGroup& group : groups) {
    std::vector<TiledBlock> tiled(group.tile_keys.size());
    for (TiledBlock& under_way : tiled) {
      under_way.block = &blocks.front();
      blocks.remove_prefix(1);
    }
    LONGSPAN_RETURN_IF_ERROR(
        AgreeOnMaxima(context, source, group, absl::MakeSpan(tiled), &maxima, tile_maxima.get()));
    LONGSPAN_RETURN_IF_ERROR(AgreeOnThresholds(context, source, group, absl::MakeSpan(tiled)));
    for (const TiledBlock& under_way : tiled) {
      LocalTopK(source, under_way.block->middle, BlockScorer(context, source, under_way),
                candidates);
      candidates += source.top_k;
      context.communicator->Progress();
    }
  }
  return absl::OkStatus();
}

}  // namespace longspan
