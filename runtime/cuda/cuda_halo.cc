#include "runtime/cuda/cuda_halo.h"

#include <algorithm>
#include <vector>

#include "kernels/base/status_macros.h"
#include "runtime/kv_store.h"

namespace longspan {
namespace {

// The runs of one direction, grouped by the rank at the other end, and a message for each.
struct Side {
  std::vector<std::vector<cuda::ScoreRun>> of_rank;
  std::vector<cuda::ScoreRun> runs;
  std::vector<Transfer> messages;
  int64_t rows = 0;

  void Lay(std::byte* buffer, int64_t row_bytes) {
    for (size_t r = 0; r < of_rank.size(); ++r) {
      const int64_t first = rows;
      for (cuda::ScoreRun& run : of_rank[r]) {
        run.message_row = rows;
        rows += run.count;
        runs.push_back(run);
      }
      if (rows > first) {
        messages.push_back(
            {static_cast<int>(r), buffer + first * row_bytes, (rows - first) * row_bytes});
      }
    }
  }
};

}  // namespace

absl::Status ExchangeHalosCuda(CudaRun* run, int64_t layer, const PrefillChunk& chunk) {
  const CudaPhaseSpan span(run->phases, Phase::kOtherExchange);
  const KvShape& kv = run->sizes.kv;
  const SequenceLayout& layout = run->context->layout;
  const int rank = run->rank();
  Side out, in;
  out.of_rank.resize(run->ranks());
  in.of_rank.resize(run->ranks());
  const auto owner = [&](int64_t stripe) { return static_cast<int>(stripe % layout.num_ranks); };
  // Of a stripe's page, row 0 is `halo` positions before the stripe.
  const auto score_run = [&](int64_t stripe, Range positions) {
    cuda::ScoreRun score;
    score.page = stripe / layout.num_ranks;
    score.first_row = positions.begin - stripe * layout.stripe_tokens + kv.halo;
    score.count = positions.size();
    return score;
  };
  int64_t max_count = 0;
  for (const HaloMove& move : HaloMoves(*run->context, chunk)) {
    max_count = std::max(max_count, move.positions.size());
    if (owner(move.from) == rank) {
      out.of_rank[owner(move.to)].push_back(score_run(move.from, move.positions));
    }
    if (owner(move.to) == rank) {
      in.of_rank[owner(move.from)].push_back(score_run(move.to, move.positions));
    }
  }
  std::byte* received = run->buffers.halos + run->buffers.halo_bytes / 2;
  out.Lay(run->buffers.halos, kv.score_row_bytes());
  in.Lay(received, kv.score_row_bytes());
  LONGSPAN_CHECK(std::max(out.rows, in.rows) * kv.score_row_bytes() <= run->buffers.halo_bytes / 2);

  std::vector<const std::byte*> pages;
  for (const PageRef& page : chunk.cache->pages()) pages.push_back(page->score_base());
  Parameters parameters;
  const int64_t pages_at = parameters.Add<const std::byte*>(pages);
  const int64_t out_at = parameters.Add<cuda::ScoreRun>(out.runs);
  const int64_t in_at = parameters.Add<cuda::ScoreRun>(in.runs);
  LONGSPAN_RETURN_IF_ERROR(parameters.Upload(*run));
  cuda::CopyScoreRowsArgs copy;
  copy.layer = run->cache_layer(layer);
  copy.pages = reinterpret_cast<std::byte* const*>(run->buffers.parameters + pages_at);
  copy.runs = reinterpret_cast<const cuda::ScoreRun*>(run->buffers.parameters + out_at);
  copy.num_runs = static_cast<int>(out.runs.size());
  copy.max_count = max_count;
  copy.message = run->buffers.halos;
  LONGSPAN_RETURN_IF_ERROR(cuda::CopyScoreRows(copy, run->stream()));
  LONGSPAN_RETURN_IF_ERROR(
      run->gpu->communicator->Exchange("store.halos", out.messages, in.messages, run->stream()));
  copy.runs = reinterpret_cast<const cuda::ScoreRun*>(run->buffers.parameters + in_at);
  copy.num_runs = static_cast<int>(in.runs.size());
  copy.message = received;
  copy.to_pages = true;
  return cuda::CopyScoreRows(copy, run->stream());
}

}  // namespace longspan
