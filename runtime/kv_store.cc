#include "runtime/kv_store.h"

#include <algorithm>
#include <cstring>
#include <vector>

#include "kernels/base/convert.h"
#include "kernels/base/status_macros.h"
#include "runtime/selection.h"

namespace longspan {
namespace {

bool KeepsScoreKeys(const AttentionContext& context) { return context.kv.score_dim > 0; }

absl::Status ExchangeHalos(const AttentionContext& context, int64_t layer,
                           const PrefillChunk& chunk) {
  const int rank = context.communicator->rank();
  const int64_t bytes = context.kv.score_row_bytes();
  std::vector<std::vector<std::byte>> sends(context.layout.num_ranks);
  std::vector<std::vector<std::byte>> receives(context.layout.num_ranks);
  const auto owner = [&](int64_t s) { return static_cast<int>(s % context.layout.num_ranks); };
  const std::vector<HaloMove> moves = HaloMoves(context, chunk);
  for (const auto& [from, to, range] : moves) {
    if (owner(from) == rank) {
      const std::byte* rows =
          chunk.cache->ScoreKey(layer, from / context.layout.num_ranks, range.begin);
      sends[owner(to)].insert(sends[owner(to)].end(), rows, rows + range.size() * bytes);
    }
    if (owner(to) == rank) {
      auto& receive = receives[owner(from)];
      receive.resize(receive.size() + range.size() * bytes);
    }
  }
  std::vector<Transfer> out, in;
  for (int r = 0; r < context.layout.num_ranks; ++r) {
    out.push_back({r, sends[r].data(), static_cast<int64_t>(sends[r].size())});
    in.push_back({r, receives[r].data(), static_cast<int64_t>(receives[r].size())});
  }
  LONGSPAN_ASSIGN_OR_RETURN(const ExchangeId exchange,
                            context.communicator->StartExchange("store.halos", out, in));
  LONGSPAN_RETURN_IF_ERROR(context.communicator->WaitExchange(exchange));
  std::vector<const std::byte*> next(context.layout.num_ranks);
  for (int r = 0; r < context.layout.num_ranks; ++r) next[r] = receives[r].data();
  for (const auto& [from, to, range] : moves) {
    if (owner(to) != rank) continue;
    std::byte* rows = chunk.cache->ScoreKey(layer, to / context.layout.num_ranks, range.begin);
    std::memcpy(rows, next[owner(from)], range.size() * bytes);
    next[owner(from)] += range.size() * bytes;
  }
  return absl::OkStatus();
}

}  // namespace

std::vector<HaloMove> HaloMoves(const AttentionContext& context, const PrefillChunk& chunk) {
  return HaloMoves(context.layout, context.kv.halo, chunk.tokens, chunk.capacity,
                   chunk.behind_cached);
}

absl::Status StoreChunk(const AttentionContext& context, int64_t layer, const PrefillChunk& chunk,
                        const float* keys, const float* values) {
  const PhaseSpan span(context.phases, Phase::kOtherCompute);
  const int64_t dim = context.shape.kv_dim();
  std::vector<float> compressed;
  if (KeepsScoreKeys(context) && !context.exact() && chunk.rows > 0) {
    compressed.resize(chunk.rows * context.kv.score_dim);
    CompressKeys(context, layer, keys, chunk.rows, /*decode=*/false, compressed.data());
  }
  for (const PrefillBlock& block : chunk.blocks) {
    if (block.rank != context.communicator->rank()) continue;
    // A block lies in one stripe, so its rows are contiguous in the cache.
    const int64_t first = block.tokens.begin;
    const int64_t count = block.tokens.size();
    ConvertFromFloat(keys + block.row * dim, count * dim, context.kv.dtype,
                     chunk.cache->Key(layer, first));
    ConvertFromFloat(values + block.row * dim, count * dim, context.kv.dtype,
                     chunk.cache->Value(layer, first));
    if (compressed.empty()) continue;
    ConvertFromFloat(compressed.data() + block.row * context.kv.score_dim,
                     count * context.kv.score_dim, context.kv.score_dtype,
                     chunk.cache->ScoreKey(layer, context.layout.page(first), first));
  }
  if (!KeepsScoreKeys(context) || context.kv.halo == 0) return absl::OkStatus();
  return ExchangeHalos(context, layer, chunk);
}

void StoreToken(const AttentionContext& context, int64_t layer, const DecodeToken& token,
                const float* key, const float* value) {
  const PhaseSpan span(context.phases, Phase::kOtherCompute);
  const int64_t dim = context.shape.kv_dim();
  if (context.layout.owner(token.position) == context.communicator->rank()) {
    ConvertFromFloat(key, dim, context.kv.dtype, token.cache->Key(layer, token.position));
    ConvertFromFloat(value, dim, context.kv.dtype, token.cache->Value(layer, token.position));
  }
  if (!KeepsScoreKeys(context)) return;
  const std::vector<int64_t> pages = token.cache->PagesNear(token.position);
  if (pages.empty()) return;
  std::vector<float> score(key, key + dim);
  if (!context.exact()) {
    score.resize(context.kv.score_dim);
    CompressKeys(context, layer, key, 1, /*decode=*/true, score.data());
  }
  for (const int64_t page : pages) {
    ConvertFromFloat(score.data(), context.kv.score_dim, context.kv.score_dtype,
                     token.cache->ScoreKey(layer, page, token.position));
  }
}

}  // namespace longspan
