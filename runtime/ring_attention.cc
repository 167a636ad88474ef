#include "runtime/ring_attention.h"

#include <algorithm>
#include <cstring>
#include <memory>
#include <numeric>
#include <utility>
#include <vector>

#include "kernels/base/check.h"
#include "kernels/base/convert.h"
#include "kernels/base/status_macros.h"
#include "sharding/ring_schedule.h"

namespace longspan {
namespace {

// A query block with the tiles that its keys are collected in. Full tiles are attended at once.
struct BlockInFlight {
  BlockInFlight(const AttentionShape& shape) : attention(shape), near(shape), far(shape) {}

  BlockKeys keys;
  BlockAttention attention;
  KeyTile near;
  KeyTile far;
  float* output = nullptr;
};

// Far keys stay unrotated, and meet queries rotated to one distance; otherwise every key is rotated
// to its true position and counts as near.
bool FarIsApart(const AttentionContext& context) {
  return context.esa.positions == Positions::kFar;
}

// Puts one key and value, as the cache holds them, in the tile; attends when it is full.
void Append(const AttentionContext& context, const std::byte* key, const std::byte* value,
            int64_t position, bool far, BlockInFlight* block) {
  const AttentionShape& shape = context.shape;
  far = far && FarIsApart(context);
  KeyTile& tile = far ? block->far : block->near;
  const int64_t size = SizeOf(context.kv.dtype);
  for (int64_t g = 0; g < shape.kv_heads; ++g) {
    const int64_t row = (g * kAttentionTile + tile.count) * shape.head_dim;
    const int64_t head = g * shape.head_dim * size;
    ConvertToFloat(key + head, context.kv.dtype, shape.head_dim, tile.keys.data() + row);
    ConvertToFloat(value + head, context.kv.dtype, shape.head_dim, tile.values.data() + row);
    if (!far) context.rope->Rotate(tile.keys.data() + row, 1, position, tile.keys.data() + row);
  }
  tile.positions[tile.count++] = position;
  if (tile.count < kAttentionTile) return;
  far ? block->attention.AttendFar(tile) : block->attention.AttendNear(tile);
  tile.count = 0;
}

void Finish(BlockInFlight* block, float* lse) {
  block->attention.AttendFar(block->far);
  block->attention.AttendNear(block->near);
  block->attention.Finish(block->output, lse);
}

// Begins a block of `count` queries [count, heads, head_dim] before RoPE.
void Begin(const AttentionContext& context, const float* queries, Range tokens,
           BlockInFlight* block) {
  const int64_t dim = context.shape.query_dim();
  std::vector<float> near(tokens.size() * dim), far;
  for (int64_t i = 0; i < tokens.size(); ++i) {
    context.rope->Rotate(queries + i * dim, context.shape.heads, tokens.begin + i,
                         near.data() + i * dim);
  }
  const bool has_far = FarIsApart(context) && !block->keys.far.empty();
  if (has_far) {
    far.resize(near.size());
    for (int64_t i = 0; i < tokens.size(); ++i) {
      context.rope->Rotate(queries + i * dim, context.shape.heads, context.esa.far_position,
                           far.data() + i * dim);
    }
  }
  block->attention.Reset(near.data(), has_far ? far.data() : nullptr, tokens.size(), tokens.begin);
}

// The tokens of one source in one round, found in ascending order of position: the rank's own in
// the cache, others' in the message.
class TokenRows {
 public:
  TokenRows(const AttentionContext& context, int64_t layer, KvShard* cache,
            const std::byte* message, absl::Span<const Range> runs)
      : context_(context), layer_(layer), cache_(cache), message_(message), runs_(runs) {}

  void Append(int64_t position, bool far, BlockInFlight* block) {
    if (message_ == nullptr) {
      longspan::Append(context_, cache_->Key(layer_, position), cache_->Value(layer_, position),
                       position, far, block);
      return;
    }
    while (runs_[run_].end <= position) row_ += runs_[run_++].size();
    const int64_t bytes = context_.kv.row_bytes();
    const std::byte* row = message_ + 2 * bytes * (row_ + position - runs_[run_].begin);
    longspan::Append(context_, row, row + bytes, position, far, block);
  }

 private:
  const AttentionContext& context_;
  int64_t layer_;
  KvShard* cache_;
  const std::byte* message_;  // [tokens, key row then value row]; null: the rank's own
  absl::Span<const Range> runs_;
  size_t run_ = 0;
  int64_t row_ = 0;  // of the current run's first token
};

// Calls f(position, is_far) for what `block` reads in `window`, ascending.
template <typename F>
void ForEachKey(const BlockKeys& keys, Range window, F&& f) {
  auto far = std::lower_bound(keys.far.begin(), keys.far.end(), window.begin);
  for (; far != keys.far.end() && *far < window.end; ++far) f(*far, true);
  const Range near = Intersect(keys.near, window);
  for (int64_t p = near.begin; p < near.end; ++p) f(p, false);
}

std::vector<std::byte> PackMessage(const AttentionContext& context, int64_t layer, KvShard* cache,
                                   absl::Span<const Range> runs) {
  const int64_t bytes = context.kv.row_bytes();
  std::vector<std::byte> message(CountTokens(runs) * 2 * bytes);
  std::byte* out = message.data();
  for (const Range& run : runs) {
    for (int64_t p = run.begin; p < run.end; ++p, out += 2 * bytes) {
      std::memcpy(out, cache->Key(layer, p), bytes);
      std::memcpy(out + bytes, cache->Value(layer, p), bytes);
    }
  }
  return message;
}

// One round of the ring on one rank.
class RoundExchange {
 public:
  RoundExchange(const AttentionContext& context, int64_t layer, KvShard* cache,
                const RingRound& round)
      : context_(context),
        layer_(layer),
        cache_(cache),
        round_(round),
        rank_(context.communicator->rank()),
        ranks_(context.communicator->size()),
        sent_(ranks_),
        received_(ranks_),
        exchanges_(ranks_) {}

  // Starts step `step`, if there is one.
  absl::Status Start(int step) {
    if (step >= ranks_) return absl::OkStatus();
    const int to = RingDestination(rank_, step, ranks_);
    const int from = RingSource(rank_, step, ranks_);
    sent_[to] = PackMessage(context_, layer_, cache_, round_.sends[to]);
    received_[from].resize(CountTokens(round_.receives[from]) * 2 * context_.kv.row_bytes());
    const Transfer send = {to, sent_[to].data(), static_cast<int64_t>(sent_[to].size())};
    const Transfer receive = {from, received_[from].data(),
                              static_cast<int64_t>(received_[from].size())};
    LONGSPAN_ASSIGN_OR_RETURN(exchanges_[step], context_.communicator->StartExchange(
                                                    "ring.step", {&send, 1}, {&receive, 1}));
    return absl::OkStatus();
  }

  // Waits for step `step`; the message that it brought is then in Rows(source).
  absl::Status Wait(int step) {
    LONGSPAN_RETURN_IF_ERROR(context_.communicator->WaitExchange(exchanges_[step]));
    sent_[RingDestination(rank_, step, ranks_)] = {};
    return absl::OkStatus();
  }

  TokenRows Rows(int source) const {
    const std::byte* message = source == rank_ ? nullptr : received_[source].data();
    return TokenRows(context_, layer_, cache_, message, round_.receives[source]);
  }

 private:
  const AttentionContext& context_;
  int64_t layer_;
  KvShard* cache_;
  const RingRound& round_;
  int rank_, ranks_;
  std::vector<std::vector<std::byte>> sent_, received_;  // [peer]
  std::vector<ExchangeId> exchanges_;                    // [step]
};

using Blocks = std::vector<std::unique_ptr<BlockInFlight>>;

// Attends to what one source sent.
void AttendSource(const AttentionContext& context, const RoundExchange& exchange, int source,
                  Range window, const Blocks& blocks) {
  for (const auto& block : blocks) {
    TokenRows rows = exchange.Rows(source);
    ForEachKey(block->keys, window, [&](int64_t position, bool far) {
      if (context.layout.owner(position) == source) rows.Append(position, far, block.get());
    });
    context.communicator->Progress();
  }
}

// Attends to everything of a round in order of position.
void AttendInOrder(const AttentionContext& context, const RoundExchange& exchange, Range window,
                   const Blocks& blocks) {
  for (const auto& block : blocks) {
    std::vector<TokenRows> rows;
    for (int r = 0; r < context.layout.num_ranks; ++r) rows.push_back(exchange.Rows(r));
    ForEachKey(block->keys, window, [&](int64_t position, bool far) {
      rows[context.layout.owner(position)].Append(position, far, block.get());
    });
  }
}

// Brings the keys of `all` (of every rank) to this rank's `blocks`, round by round.
absl::Status RunRing(const AttentionContext& context, int64_t layer, KvShard* cache,
                     absl::Span<const BlockKeys> all, const Blocks& blocks) {
  const int rank = context.communicator->rank();
  const int ranks = context.communicator->size();
  for (const RingRound& round :
       PlanRing(context.layout, rank, all, context.limits.ring_round_tokens)) {
    RoundExchange exchange(context, layer, cache, round);
    LONGSPAN_RETURN_IF_ERROR(exchange.Start(1));
    if (!context.deterministic) AttendSource(context, exchange, rank, round.window, blocks);
    for (int step = 1; step < ranks; ++step) {
      LONGSPAN_RETURN_IF_ERROR(exchange.Wait(step));
      LONGSPAN_RETURN_IF_ERROR(exchange.Start(step + 1));
      if (context.deterministic) continue;
      AttendSource(context, exchange, RingSource(rank, step, ranks), round.window, blocks);
    }
    if (context.deterministic) AttendInOrder(context, exchange, round.window, blocks);
  }
  return absl::OkStatus();
}

BlockKeys KeysOf(int rank, const AttentionRanges& ranges, const std::vector<int64_t>& selected) {
  BlockKeys keys;
  keys.rank = rank;
  keys.far.resize(ranges.initial.size());
  std::iota(keys.far.begin(), keys.far.end(), ranges.initial.begin);
  keys.far.insert(keys.far.end(), selected.begin(), selected.end());
  keys.near = ranges.near;
  return keys;
}

void Count(const AttentionContext& context, const BlockKeys& keys, Range tokens) {
  const auto far = static_cast<int64_t>(keys.far.size());
  for (int64_t p = tokens.begin; p < tokens.end; ++p) {
    context.counts->attended += far + p + 1 - keys.near.begin;
    context.counts->dense += p + 1;
  }
}

// Partial attention of every token over this rank's own keys: `partials` holds outputs
// [tokens, heads, head_dim], then lse [tokens, heads].
void AttendOwn(const AttentionContext& context, int64_t layer, absl::Span<const DecodeToken> tokens,
               absl::Span<const BlockKeys> keys, const float* queries, float* partials) {
  const int64_t heads = context.shape.heads;
  const int64_t dim = context.shape.query_dim();
  float* lse = partials + static_cast<int64_t>(tokens.size()) * dim;
  for (size_t t = 0; t < tokens.size(); ++t) {
    BlockInFlight block(context.shape);
    block.keys = keys[t];
    block.output = partials + t * dim;
    Begin(context, queries + t * dim, {tokens[t].position, tokens[t].position + 1}, &block);
    TokenRows rows(context, layer, tokens[t].cache, nullptr, {});
    ForEachKey(block.keys, {0, tokens[t].position + 1}, [&](int64_t position, bool far) {
      if (context.layout.owner(position) == context.communicator->rank()) {
        rows.Append(position, far, &block);
      }
    });
    Finish(&block, lse + t * heads);
  }
}

absl::Status GatherPartials(const AttentionContext& context, int64_t tokens,
                            const std::vector<float>& mine, float* output) {
  const int64_t ranks = context.layout.num_ranks;
  std::vector<float> all(ranks * mine.size());
  LONGSPAN_RETURN_IF_ERROR(
      context.communicator->AllGather("decode.partials", mine.data(), all.data(),
                                      static_cast<int64_t>(mine.size() * sizeof(float))));
  MergePartialsArgs args;
  args.outputs = all.data();
  args.lse = all.data() + tokens * context.shape.query_dim();
  args.part_stride = static_cast<int64_t>(mine.size());
  args.parts = ranks;
  args.rows = tokens * context.shape.heads;
  args.head_dim = context.shape.head_dim;
  args.output = output;
  MergePartials(args);
  return absl::OkStatus();
}

// Every rank reads every key of the token: the ring with one copy of the block on each rank.
absl::Status AttendEverywhere(const AttentionContext& context, int64_t layer,
                              const DecodeToken& token, const BlockKeys& keys, const float* query,
                              float* output) {
  std::vector<BlockKeys> copies(context.layout.num_ranks, keys);
  for (int r = 0; r < context.layout.num_ranks; ++r) copies[r].rank = r;
  Blocks blocks;
  BlockInFlight& block = *blocks.emplace_back(std::make_unique<BlockInFlight>(context.shape));
  block.keys = keys;
  block.output = output;
  Begin(context, query, {token.position, token.position + 1}, &block);
  LONGSPAN_RETURN_IF_ERROR(RunRing(context, layer, token.cache, copies, blocks));
  Finish(&block, nullptr);
  return absl::OkStatus();
}

}  // namespace

absl::Status AttendBlocks(const AttentionContext& context, int64_t layer, KvShard* cache,
                          absl::Span<const PrefillBlock> blocks, const Selections& selections,
                          int64_t first_row, const float* queries, float* output) {
  const int64_t dim = context.shape.query_dim();
  std::vector<BlockKeys> all;
  Blocks mine;
  for (size_t b = 0; b < blocks.size(); ++b) {
    const PrefillBlock& block = blocks[b];
    all.push_back(KeysOf(block.rank, block.ranges, selections[b]));
    Count(context, all.back(), block.tokens);
    if (context.on_selection) context.on_selection(layer, block.tokens, selections[b]);
    if (block.rank != context.communicator->rank()) continue;
    BlockInFlight& own = *mine.emplace_back(std::make_unique<BlockInFlight>(context.shape));
    own.keys = all.back();
    own.output = output + (block.row - first_row) * dim;
    Begin(context, queries + (block.row - first_row) * dim, block.tokens, &own);
  }
  LONGSPAN_RETURN_IF_ERROR(RunRing(context, layer, cache, all, mine));
  for (const auto& block : mine) Finish(block.get(), nullptr);
  return absl::OkStatus();
}

absl::Status AttendTokens(const AttentionContext& context, int64_t layer,
                          absl::Span<const DecodeToken> tokens, const Selections& selections,
                          const float* queries, float* output) {
  const int64_t dim = context.shape.query_dim();
  std::vector<BlockKeys> keys;
  for (size_t t = 0; t < tokens.size(); ++t) {
    const Range block = {tokens[t].position, tokens[t].position + 1};
    keys.push_back(KeysOf(0, RangesOfBlock(context.sizes, block), selections[t]));
    Count(context, keys.back(), block);
    if (context.on_selection) context.on_selection(layer, block, selections[t]);
  }
  if (context.deterministic) {
    for (size_t t = 0; t < tokens.size(); ++t) {
      LONGSPAN_RETURN_IF_ERROR(AttendEverywhere(context, layer, tokens[t], keys[t],
                                                queries + t * dim, output + t * dim));
    }
    return absl::OkStatus();
  }
  const auto count = static_cast<int64_t>(tokens.size());
  std::vector<float> partials(count * (dim + context.shape.heads));
  AttendOwn(context, layer, tokens, keys, queries, partials.data());
  return GatherPartials(context, count, partials, output);
}

}  // namespace longspan
