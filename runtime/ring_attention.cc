#include "runtime/ring_attention.h"

#include <cstring>
#include <optional>
#include <utility>
#include <vector>

#include "kernels/base/status_macros.h"
#include "runtime/block_in_flight.h"

namespace longspan {
namespace {

// The tokens of one source in one round, found in ascending order of position: the rank's own in
// the cache, others' in the message.
class TokenRows {
 public:
  TokenRows(const AttentionContext& context, int64_t layer, KvShard* cache,
            const std::byte* message, absl::Span<const Range> runs)
      : context_(context), layer_(layer), cache_(cache), message_(message), runs_(runs) {}

  void Append(int64_t position, bool far, BlockInFlight* block) {
    if (message_ == nullptr) {
      block->Append(cache_->Key(layer_, position), cache_->Value(layer_, position), position, far);
      return;
    }
    while (runs_[run_].end <= position) row_ += runs_[run_++].size();
    const int64_t bytes = context_.kv.row_bytes();
    const std::byte* row = message_ + 2 * bytes * (row_ + position - runs_[run_].begin);
    block->Append(row, row + bytes, position, far);
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

// Attends to what one source sent.
void AttendSource(const AttentionContext& context, const RoundExchange& exchange, int source,
                  Range window, std::vector<BlockInFlight>* blocks) {
  for (BlockInFlight& block : *blocks) {
    TokenRows rows = exchange.Rows(source);
    block.ForEachKey(window, [&](int64_t position, bool far) {
      if (context.layout.owner(position) == source) rows.Append(position, far, &block);
    });
    context.communicator->Progress();
  }
}

// Attends to everything of a round in order of position.
void AttendInOrder(const AttentionContext& context, const RoundExchange& exchange, Range window,
                   std::vector<BlockInFlight>* blocks) {
  for (BlockInFlight& block : *blocks) {
    std::vector<TokenRows> rows;
    for (int r = 0; r < context.layout.num_ranks; ++r) rows.push_back(exchange.Rows(r));
    block.ForEachKey(window, [&](int64_t position, bool far) {
      rows[context.layout.owner(position)].Append(position, far, &block);
    });
    context.communicator->Progress();
  }
}

// Brings the keys of `all` (of every rank) to this rank's `blocks`, round by round.
absl::Status RunRing(const AttentionContext& context, int64_t layer, KvShard* cache,
                     absl::Span<const BlockKeys> all, int64_t min_steps,
                     std::vector<BlockInFlight>* blocks) {
  const int rank = context.communicator->rank();
  const int ranks = context.communicator->size();
  const std::vector<RingRound> rounds =
      PlanRing(context.layout, rank, all, context.limits.ring_round_tokens, min_steps);
  std::optional<RoundExchange> next;
  const auto start_round = [&](size_t r) {
    if (r >= rounds.size()) return absl::OkStatus();
    next.emplace(context, layer, cache, rounds[r]);
    return next->Start(1);
  };
  LONGSPAN_RETURN_IF_ERROR(start_round(0));
  for (size_t r = 0; r < rounds.size(); ++r) {
    RoundExchange exchange = *std::exchange(next, std::nullopt);
    const Range window = rounds[r].window;
    if (!context.deterministic) AttendSource(context, exchange, rank, window, blocks);
    for (int step = 1; step < ranks; ++step) {
      LONGSPAN_RETURN_IF_ERROR(exchange.Wait(step));
      // A message is on its way behind all attention but that to the last one.
      LONGSPAN_RETURN_IF_ERROR(step + 1 < ranks ? exchange.Start(step + 1) : start_round(r + 1));
      if (context.deterministic) continue;
      AttendSource(context, exchange, RingSource(rank, step, ranks), window, blocks);
    }
    if (context.deterministic) AttendInOrder(context, exchange, window, blocks);
    if (!next.has_value()) LONGSPAN_RETURN_IF_ERROR(start_round(r + 1));  // one rank
  }
  return absl::OkStatus();
}

}  // namespace

absl::Status AttendBlocksInRing(const AttentionContext& context, int64_t layer, KvShard* cache,
                                absl::Span<const PrefillBlock> blocks,
                                absl::Span<const BlockKeys> keys, int64_t first_row,
                                const float* queries, float* output) {
  const int64_t dim = context.shape.query_dim();
  std::vector<BlockInFlight> mine;
  std::vector<float*> outputs;
  for (size_t b = 0; b < blocks.size(); ++b) {
    if (blocks[b].rank != context.communicator->rank()) continue;
    const int64_t row = (blocks[b].row - first_row) * dim;
    mine.emplace_back(context, keys[b], blocks[b].tokens, queries + row);
    outputs.push_back(output + row);
  }
  LONGSPAN_RETURN_IF_ERROR(RunRing(context, layer, cache, keys, kPromptRingSteps, &mine));
  for (size_t i = 0; i < mine.size(); ++i) mine[i].Finish(outputs[i], nullptr);
  return absl::OkStatus();
}

absl::Status AttendTokenEverywhere(const AttentionContext& context, int64_t layer,
                                   const DecodeToken& token, const BlockKeys& keys,
                                   const float* query, float* output) {
  std::vector<BlockKeys> copies(context.layout.num_ranks, keys);
  for (int r = 0; r < context.layout.num_ranks; ++r) copies[r].rank = r;
  std::vector<BlockInFlight> block;
  block.emplace_back(context, keys, Range{token.position, token.position + 1}, query);
  LONGSPAN_RETURN_IF_ERROR(RunRing(context, layer, token.cache, copies, /*min_steps=*/1, &block));
  block[0].Finish(output, nullptr);
  return absl::OkStatus();
}

}  // namespace longspan
