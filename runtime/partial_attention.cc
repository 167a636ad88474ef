#include "runtime/partial_attention.h"

#include <vector>

#include "kernels/base/check.h"
#include "kernels/base/status_macros.h"
#include "runtime/block_in_flight.h"
#include "runtime/layer_collectives.h"

namespace longspan {
namespace {

// Partials of some rows: outputs [rows, heads, head_dim], then lse [rows, heads].
int64_t PartialSize(const AttentionContext& context, int64_t rows) {
  return rows * (context.shape.query_dim() + context.shape.heads);
}

// Attention of one block over this rank's own keys.
void AttendOwn(const AttentionContext& context, int64_t layer, KvShard* cache,
               const BlockKeys& keys, Range tokens, const float* queries, float* output,
               float* lse) {
  BlockInFlight block(context, keys, tokens, queries);
  const int rank = context.communicator->rank();
  block.ForEachKey({0, tokens.end}, [&](int64_t position, bool far) {
    if (context.layout.owner(position) != rank) return;
    block.Append(cache->Key(layer, position), cache->Value(layer, position), position, far);
  });
  block.Finish(output, lse);
}

// partials: of each rank, the same rows.
void Merge(const AttentionContext& context, const std::vector<float>& partials, int64_t rows,
           float* output) {
  const PhaseSpan span(context.phases, Phase::kPartialMerge);
  MergePartialsArgs args;
  args.outputs = partials.data();
  args.lse = partials.data() + rows * context.shape.query_dim();
  args.part_stride = PartialSize(context, rows);
  args.parts = context.layout.num_ranks;
  args.rows = rows * context.shape.heads;
  args.head_dim = context.shape.head_dim;
  args.output = output;
  MergePartials(args);
}

int64_t BytesOf(int64_t floats) { return floats * static_cast<int64_t>(sizeof(float)); }

// Queries of prefill blocks on their way round the ring, and partials on their way back.
class QueryRing {
 public:
  QueryRing(const AttentionContext& context, int64_t layer, KvShard* cache,
            absl::Span<const PrefillBlock> blocks, absl::Span<const BlockKeys> keys,
            const float* queries)
      : context_(context),
        layer_(layer),
        cache_(cache),
        blocks_(blocks),
        keys_(keys),
        own_queries_(queries),
        rank_(context.communicator->rank()),
        ranks_(context.communicator->size()),
        rows_(QueriesByRank(ranks_, keys)),
        queries_(ranks_),
        partials_(ranks_),
        query_exchanges_(ranks_),
        partial_exchanges_(ranks_) {
    merged_.resize(ranks_ * PartialSize(context, rows_[rank_]));
  }

  // In step i a rank attends to its own keys with the queries of rank - i, while those of the next
  // step arrive; their partials go back at once.
  absl::Status Run(float* output) {
    LONGSPAN_RETURN_IF_ERROR(StartQueries(1));
    Attend(rank_, own_queries_, Part(rank_));
    for (int step = 1; step < ranks_; ++step) {
      const int source = RingSource(rank_, step, ranks_);
      LONGSPAN_RETURN_IF_ERROR(context_.communicator->WaitExchange(query_exchanges_[step]));
      LONGSPAN_RETURN_IF_ERROR(StartQueries(step + 1));
      partials_[source].resize(PartialSize(context_, rows_[source]));
      Attend(source, queries_[source].data(), partials_[source].data());
      queries_[source] = {};
      LONGSPAN_RETURN_IF_ERROR(StartPartials(step));
    }
    for (int step = 1; step < ranks_; ++step) {
      LONGSPAN_RETURN_IF_ERROR(context_.communicator->WaitExchange(partial_exchanges_[step]));
    }
    Merge(context_, merged_, rows_[rank_], output);
    return absl::OkStatus();
  }

 private:
  // What `rank` contributes to this rank's rows.
  float* Part(int rank) { return merged_.data() + rank * PartialSize(context_, rows_[rank_]); }

  absl::Status StartQueries(int step) {
    if (step >= ranks_) return absl::OkStatus();
    const int64_t dim = context_.shape.query_dim();
    const int to = RingDestination(rank_, step, ranks_);
    const int from = RingSource(rank_, step, ranks_);
    queries_[from].resize(rows_[from] * dim);
    const Transfer send = {to, const_cast<float*>(own_queries_), BytesOf(rows_[rank_] * dim)};
    const Transfer receive = {from, queries_[from].data(), BytesOf(rows_[from] * dim)};
    LONGSPAN_ASSIGN_OR_RETURN(
        query_exchanges_[step],
        context_.communicator->StartExchange("ring.queries", {&send, 1}, {&receive, 1}));
    return absl::OkStatus();
  }

  absl::Status StartPartials(int step) {
    const int to = RingSource(rank_, step, ranks_);
    const int from = RingDestination(rank_, step, ranks_);
    const Transfer send = {to, partials_[to].data(), BytesOf(PartialSize(context_, rows_[to]))};
    const Transfer receive = {from, Part(from), BytesOf(PartialSize(context_, rows_[rank_]))};
    LONGSPAN_ASSIGN_OR_RETURN(
        partial_exchanges_[step],
        context_.communicator->StartExchange("ring.partials", {&send, 1}, {&receive, 1}));
    return absl::OkStatus();
  }

  // This rank's partials of the blocks of `owner`.
  void Attend(int owner, const float* queries, float* partials) {
    float* lse = partials + rows_[owner] * context_.shape.query_dim();
    for (size_t b = 0; b < blocks_.size(); ++b) {
      if (blocks_[b].rank != owner) continue;
      const Range tokens = blocks_[b].tokens;
      AttendOwn(context_, layer_, cache_, keys_[b], tokens, queries, partials, lse);
      queries += tokens.size() * context_.shape.query_dim();
      partials += tokens.size() * context_.shape.query_dim();
      lse += tokens.size() * context_.shape.heads;
      context_.communicator->Progress();
    }
  }

  const AttentionContext& context_;
  int64_t layer_;
  KvShard* cache_;
  absl::Span<const PrefillBlock> blocks_;
  absl::Span<const BlockKeys> keys_;
  const float* own_queries_;
  int rank_, ranks_;
  std::vector<int64_t> rows_;                           // [rank] queries of its blocks
  std::vector<std::vector<float>> queries_, partials_;  // [rank] of its blocks
  std::vector<float> merged_;                           // [rank] partials of this rank's blocks
  std::vector<ExchangeId> query_exchanges_, partial_exchanges_;  // [step]
};

}  // namespace

absl::Status AttendBlocksByPartials(const AttentionContext& context, int64_t layer, KvShard* cache,
                                    absl::Span<const PrefillBlock> blocks,
                                    absl::Span<const BlockKeys> keys, const float* queries,
                                    float* output) {
  LONGSPAN_CHECK(context.panel_rows == 0);  // else there were rows of padding between the blocks
  return QueryRing(context, layer, cache, blocks, keys, queries).Run(output);
}

absl::Status AttendTokensByPartials(const AttentionContext& context, int64_t layer,
                                    absl::Span<const DecodeToken> tokens,
                                    absl::Span<const BlockKeys> keys, const float* queries,
                                    float* output) {
  const auto rows = static_cast<int64_t>(tokens.size());
  const int64_t dim = context.shape.query_dim();
  std::vector<float> mine(PartialSize(context, rows));
  for (int64_t t = 0; t < rows; ++t) {
    AttendOwn(context, layer, tokens[t].cache, keys[t],
              {tokens[t].position, tokens[t].position + 1}, queries + t * dim,
              mine.data() + t * dim, mine.data() + rows * dim + t * context.shape.heads);
  }
  std::vector<float> partials;
  LONGSPAN_RETURN_IF_ERROR(AllGather(context.communicator,
                                     GatherPartials(LayerShapeOf(context), rows), mine, &partials));
  Merge(context, partials, rows, output);
  return absl::OkStatus();
}

}  // namespace longspan
