#include "runtime/cuda/cuda_ring.h"

#include "kernels/base/status_macros.h"

namespace longspan {

absl::Status KeyRing::Start() {
  // On the host, because the upload of the lists, which waits for nothing, overwrites those that
  // the attention before may still read. It also bounds how long a rank waits for a dead one.
  LONGSPAN_RETURN_IF_ERROR(run_->gpu->communicator->Synchronize(run_->stream()));
  lists_ = Arena(run_->buffers.ring_lists);
  std::vector<const std::byte*> pages = {run_->buffers.arrived};
  for (const PageRef& page : cache_->pages()) pages.push_back(page->kv.get());
  LONGSPAN_ASSIGN_OR_RETURN(pages_, Upload<const std::byte*>(pages));
  // The ring reads what the main stream stored, and its collectives come behind those there.
  return run_->gpu->Order(run_->gpu->stream, run_->gpu->ring);
}

absl::Status KeyRing::Bring(absl::Span<const BlockKeys> blocks) {
  Gpu* gpu = run_->gpu;
  const RingRound round = PlanGroup(run_->context->layout, run_->rank(), blocks, &brought_);
  const Outgoing out = PlanSends(round);
  int64_t own_row = 0;
  const std::vector<Transfer> receives = PlanReceives(round, &own_row);
  LONGSPAN_ASSIGN_OR_RETURN(const uint32_t* local, Upload<uint32_t>(out.local));
  LONGSPAN_RETURN_IF_ERROR(gpu->Order(gpu->uploads, gpu->ring));  // reads `local` and the pages
  if (run_->phases != nullptr) run_->phases->BeginRing(gpu->ring.get());
  LONGSPAN_RETURN_IF_ERROR(Gather(local, out.sent, run_->buffers.sent + sent_ * bytes()));
  LONGSPAN_RETURN_IF_ERROR(Gather(local + out.sent,
                                  static_cast<int64_t>(out.local.size()) - out.sent,
                                  run_->buffers.arrived + own_row * bytes()));
  sent_ += out.sent;
  LONGSPAN_RETURN_IF_ERROR(
      gpu->communicator->Exchange("ring.keys", out.sends, receives, gpu->ring.get()));
  if (run_->phases != nullptr) run_->phases->EndRing(gpu->ring.get());
  // Attention reads what arrived. Ranks without a block here wait too: their next collective in the
  // main stream must come behind this one.
  return gpu->Order(gpu->ring, gpu->stream);
}

KeyRing::Outgoing KeyRing::PlanSends(const RingRound& round) const {
  const cuda::ShardGeometry geometry = run_->geometry();
  Outgoing out;
  const auto append = [&](int destination) {
    for (const Range& positions : round.sends[destination]) {
      // A run is of one stripe.
      const int64_t first = geometry.OwnedBefore(positions.begin);
      for (int64_t i = 0; i < positions.size(); ++i) {
        out.local.push_back(static_cast<uint32_t>(first + i));
      }
    }
  };
  for (int r = 0; r < run_->ranks(); ++r) {
    if (r == run_->rank()) continue;
    const auto first = static_cast<int64_t>(out.local.size());
    append(r);
    const int64_t count = static_cast<int64_t>(out.local.size()) - first;
    out.sends.push_back({r, run_->buffers.sent + (sent_ + first) * bytes(), count * bytes()});
  }
  out.sent = static_cast<int64_t>(out.local.size());
  LONGSPAN_CHECK(sent_ + out.sent <= run_->sizes.sent_keys());
  append(run_->rank());
  return out;
}

std::vector<Transfer> KeyRing::PlanReceives(const RingRound& round, int64_t* own_row) {
  std::vector<Transfer> receives;
  for (int r = 0; r < run_->ranks(); ++r) {
    const int64_t first = arrived_;
    for (const Range& positions : round.receives[r]) {
      for (int64_t p = positions.begin; p < positions.end; ++p) {
        run_->arrived_rows[p] = static_cast<uint32_t>(arrived_++);
      }
    }
    if (r == run_->rank()) {
      *own_row = first;
    } else {
      receives.push_back(
          {r, run_->buffers.arrived + first * bytes(), (arrived_ - first) * bytes()});
    }
  }
  LONGSPAN_CHECK(arrived_ <= run_->sizes.arriving_keys());
  return receives;
}

absl::Status KeyRing::Gather(const uint32_t* local, int64_t count, std::byte* message) {
  cuda::GatherRowsArgs gather;
  gather.layer = run_->cache_layer(layer_);
  gather.pages = pages_ + 1;
  gather.local_indices = local;
  gather.max_count = count;
  gather.message = message;
  return cuda::GatherRows(gather, run_->gpu->ring.get());
}

}  // namespace longspan
