#include "runtime/cuda/cuda_ring.h"

#include "kernels/base/status_macros.h"

namespace longspan {

absl::Status BringKeys(CudaRun* run, int64_t layer, KvShard* cache, const RingRound& round) {
  CudaBuffers& buffers = run->buffers;
  const KvShape& kv = run->sizes.kv;
  const int64_t bytes = 2 * kv.row_bytes();
  const int rank = run->rank();
  // What goes out, by destination; this rank's own share goes straight to its place.
  std::vector<uint32_t> local;
  std::vector<Transfer> sends, receives;
  std::vector<const std::byte*> pages;
  for (const Page& page : cache->pages()) pages.push_back(page.kv.get());
  Parameters parameters;
  const int64_t pages_at = parameters.Add<const std::byte*>(pages);
  LONGSPAN_RETURN_IF_ERROR(parameters.Upload(*run));

  const cuda::ShardGeometry geometry = run->geometry();
  const auto append = [&](int destination) {
    for (const Range& positions : round.sends[destination]) {
      // A run is of one stripe.
      const int64_t first = geometry.OwnedBefore(positions.begin);
      for (int64_t i = 0; i < positions.size(); ++i) {
        local.push_back(static_cast<uint32_t>(first + i));
      }
    }
  };
  for (int r = 0; r < run->ranks(); ++r) {
    if (r == rank) continue;
    std::byte* message = buffers.sent + static_cast<int64_t>(local.size()) * bytes;
    append(r);
    sends.push_back({r, message, CountTokens(round.sends[r]) * bytes});
  }
  const auto sent = static_cast<int64_t>(local.size());
  append(rank);
  const int64_t own = static_cast<int64_t>(local.size()) - sent;
  LONGSPAN_RETURN_IF_ERROR(cuda::Copy(buffers.send_rows, local.data(),
                                      static_cast<int64_t>(local.size() * sizeof(uint32_t)),
                                      run->stream()));
  int64_t arrived = 0, own_at = 0;
  for (int r = 0; r < run->ranks(); ++r) {
    const int64_t tokens = CountTokens(round.receives[r]);
    if (r == rank) {
      own_at = arrived;
    } else {
      receives.push_back({r, buffers.arrived + arrived * bytes, tokens * bytes});
    }
    arrived += tokens;
  }
  LONGSPAN_CHECK(arrived <= run->sizes.arriving_keys());

  cuda::GatherRowsArgs gather;
  gather.layer = run->cache_layer(layer);
  gather.pages = reinterpret_cast<const std::byte* const*>(buffers.parameters + pages_at);
  gather.local_indices = buffers.send_rows;
  gather.max_count = sent;
  gather.message = buffers.sent;
  LONGSPAN_RETURN_IF_ERROR(cuda::GatherRows(gather, run->stream()));
  gather.local_indices = buffers.send_rows + sent;
  gather.max_count = own;
  gather.message = buffers.arrived + own_at * bytes;
  LONGSPAN_RETURN_IF_ERROR(cuda::GatherRows(gather, run->stream()));
  return run->gpu->communicator->Exchange("ring.keys", sends, receives, run->stream());
}

ArrivedRows::ArrivedRows(const AttentionContext& context, const RingRound& round)
    : context_(context), round_(round), run_(round.receives.size(), 0) {
  int64_t row = 0;
  for (const auto& runs : round.receives) {
    first_.push_back(row);
    row += CountTokens(runs);
  }
}

uint32_t ArrivedRows::RowOf(int64_t position) {
  const int source = context_.layout.owner(position);
  const std::vector<Range>& runs = round_.receives[source];
  while (runs[run_[source]].end <= position) first_[source] += runs[run_[source]++].size();
  return static_cast<uint32_t>(first_[source] + position - runs[run_[source]].begin);
}

}  // namespace longspan
