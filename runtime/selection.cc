#include "runtime/selection.h"

#include <algorithm>
#include <numeric>

#include "kernels/base/status_macros.h"
#include "kernels/linear.h"
#include "runtime/head_sum_scores.h"
#include "runtime/layer_collectives.h"
#include "runtime/unit_source.h"
#include "runtime/vote_scores.h"
#include "sharding/units.h"

namespace longspan {
namespace {

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

// What the score reads of queries: [rows, voters.query_dim()]. Compressed ones get their rotation
// to far_position, where there is one, from the factors.
std::vector<float> QueriesToScore(const AttentionContext& context, int64_t layer,
                                  const float* queries, int64_t rows, bool decode) {
  const AttentionShape& shape = context.shape;
  std::vector<float> at_target;
  if (context.exact()) {
    at_target = AtTarget(context, queries, rows);
    queries = at_target.data();
  }
  if (context.score_reads_heads()) return at_target;
  std::vector<float> sums = SumGroups(shape, queries, rows);
  if (context.exact()) return sums;
  std::vector<float> compressed(rows * context.kv.score_dim);
  ApplyFactor(context, context.factors[layer].query, sums.data(), rows, decode, compressed.data());
  return compressed;
}

// Of the tokens of `middle`, or their units.
ScoreSource SourceOf(const AttentionContext& context, int64_t layer, KvShard* cache, Range middle) {
  if (context.esa.unit_tokens > 1) return UnitSource(context, layer, cache, middle);
  const auto keys = [&context, layer, cache](Range run, Range range) -> ScoreKeys {
    const int64_t page = context.layout.page(run.begin);
    return {cache->ScoreKey(layer, page, range.begin), context.kv.score_dtype, range.size()};
  };
  return {context.layout, cache->rank(), context.esa.top_k, context.esa.proximity, keys};
}

// Step 2: every rank gets what the score reads of the queries of all scored blocks, packed for the
// kernels.
absl::Status ShareQueries(const AttentionContext& context, int64_t layer, const Collective& gather,
                          absl::Span<const PrefillBlock> blocks, int64_t first_row,
                          const float* queries, std::vector<ScoredBlock>* scored) {
  const Voters& voters = context.voters;
  const int64_t dim = voters.query_dim();
  std::vector<float> mine;
  const int64_t panel = std::max<int64_t>(1, context.panel_rows);
  for (const ScoredBlock& block : *scored) {
    const PrefillBlock& source = blocks[block.index];
    if (source.rank != context.communicator->rank()) continue;
    const int64_t padded = (block.count + panel - 1) / panel * panel;
    const std::vector<float> rows = QueriesToScore(
        context, layer, queries + (source.row - first_row) * context.shape.query_dim(), padded,
        /*decode=*/false);
    mine.insert(mine.end(), rows.begin(), rows.begin() + block.count * dim);
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
    const float*& rows = next[blocks[block.index].rank];
    const int64_t of_voter = block.lanes() * voters.dim;
    block.panels.resize(voters.count * of_voter);
    for (int64_t v = 0; v < voters.count; ++v) {
      PackQueries(rows + v * voters.dim, block.count, voters.dim, dim,
                  block.panels.data() + v * of_voter);
    }
    rows += block.count * dim;
  }
  return absl::OkStatus();
}

void ScoreTokensByHeadSum(const AttentionContext& context, absl::Span<const ScoredToken> tokens,
                          Candidate* candidates) {
  for (const ScoredToken& token : tokens) {
    const auto score = [&](Range run, Range range, float* out) {
      ScoreToken(token.query, context.kv.score_dim, token.source.keys(run, range), out);
    };
    LocalTopK(token.source, token.middle, score, candidates);
    candidates += token.source.top_k;
  }
}

std::vector<int64_t> AllOf(Range range) {
  std::vector<int64_t> positions(range.size());
  std::iota(positions.begin(), positions.end(), range.begin);
  return positions;
}

}  // namespace

std::vector<float> AtTarget(const AttentionContext& context, const float* queries, int64_t rows) {
  const int64_t dim = context.shape.query_dim();
  std::vector<float> at_target(queries, queries + rows * dim);
  if (context.esa.target != ScoreTarget::kFar) return at_target;
  for (int64_t r = 0; r < rows; ++r) {
    float* row = at_target.data() + r * dim;
    context.rope->Rotate(row, context.shape.heads, context.esa.far_position, row);
  }
  return at_target;
}

std::vector<int64_t> TokensOf(const AttentionContext& context, std::vector<int64_t> selected,
                              Range middle) {
  const int64_t unit_tokens = context.esa.unit_tokens;
  if (unit_tokens == 1) return selected;
  std::vector<int64_t> positions;
  for (const int64_t unit : selected) {
    const Range tokens = TokensOfUnit(unit, unit_tokens, middle);
    for (int64_t p = tokens.begin; p < tokens.end; ++p) positions.push_back(p);
  }
  return positions;
}

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
  const int64_t unit_tokens = context.esa.unit_tokens;
  for (size_t b = 0; b < blocks.size(); ++b) {
    const Range middle = blocks[b].ranges.middle;
    if (middle.size() <= context.esa.top_k) {
      selections[b] = AllOf(middle);
    } else {
      const Range units = UnitsOf(middle, unit_tokens);
      scored.push_back({.index = b, .middle = units, .count = blocks[b].tokens.size()});
      selecting.push_back({blocks[b].rank, blocks[b].tokens.size(), units});
    }
  }
  if (scored.empty()) return selections;

  LONGSPAN_RETURN_IF_ERROR(ShareQueries(context, layer,
                                        GatherQueries(LayerShapeOf(context), selecting), blocks,
                                        first_row, queries, &scored));
  std::vector<Candidate> candidates(scored.size() * context.esa.picks());
  // The last block's middle has those of the others.
  const ScoreSource source =
      SourceOf(context, layer, cache, blocks[scored.back().index].ranges.middle);
  LONGSPAN_RETURN_IF_ERROR(
      context.esa.score == Score::kHeadSum
          ? ScoreByHeadSum(context, source, selecting, scored, candidates.data())
          : ScoreBlocksByVotes(context, source, scored, candidates.data()));
  LONGSPAN_ASSIGN_OR_RETURN(
      Selections merged,
      MergeCandidates(context, absl::MakeSpan(candidates), static_cast<int64_t>(scored.size())));
  for (size_t s = 0; s < scored.size(); ++s) {
    const size_t b = scored[s].index;
    selections[b] = TokensOf(context, std::move(merged[s]), blocks[b].ranges.middle);
  }
  return selections;
}

absl::StatusOr<Selections> SelectForTokens(const AttentionContext& context, int64_t layer,
                                           absl::Span<const DecodeToken> tokens,
                                           const float* queries) {
  Selections selections(tokens.size());
  if (!context.selects) return selections;
  const PhaseSpan span(context.phases, Phase::kScore);
  std::vector<ScoredToken> scored;
  for (size_t t = 0; t < tokens.size(); ++t) {
    const Range block = {tokens[t].position, tokens[t].position + 1};
    const Range middle = RangesOfBlock(context.sizes, block).middle;
    if (middle.size() <= context.esa.top_k) {
      selections[t] = AllOf(middle);
    } else {
      scored.push_back({.index = t,
                        .middle = UnitsOf(middle, context.esa.unit_tokens),
                        .source = SourceOf(context, layer, tokens[t].cache, middle)});
    }
  }
  if (scored.empty()) return selections;

  const std::vector<float> rows =
      QueriesToScore(context, layer, queries, static_cast<int64_t>(tokens.size()), /*decode=*/true);
  for (ScoredToken& token : scored) {
    token.query = rows.data() + token.index * context.voters.query_dim();
  }
  std::vector<Candidate> candidates(scored.size() * context.esa.picks());
  if (context.esa.score == Score::kHeadSum) {
    ScoreTokensByHeadSum(context, scored, candidates.data());
  } else {
    LONGSPAN_RETURN_IF_ERROR(ScoreTokensByVotes(context, scored, candidates.data()));
  }
  LONGSPAN_ASSIGN_OR_RETURN(
      Selections merged,
      MergeCandidates(context, absl::MakeSpan(candidates), static_cast<int64_t>(scored.size())));
  for (size_t s = 0; s < scored.size(); ++s) {
    const int64_t position = tokens[scored[s].index].position;
    const Range middle = RangesOfBlock(context.sizes, {position, position + 1}).middle;
    selections[scored[s].index] = TokensOf(context, std::move(merged[s]), middle);
  }
  return selections;
}

}  // namespace longspan
