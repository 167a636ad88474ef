#include "runtime/cuda/cuda_ring.h"

#include <vector>

#include "kernels/base/check.h"
#include "kernels/base/status_macros.h"

namespace longspan {

absl::Status KeyRing::Plan(const cuda::RingBlock* blocks, int num_blocks, int num_groups,
                           int64_t positions) {
  const CudaBuffers& buffers = run_->buffers;
  LONGSPAN_CHECK(num_groups <= kRingGroups && positions <= run_->sizes.max_tokens);
  num_groups_ = num_groups;
  cuda::RingPlanArgs plan;
  plan.geometry = run_->geometry();
  plan.blocks = blocks;
  plan.num_blocks = num_blocks;
  plan.num_groups = num_groups;
  plan.selected = run_->sizes.top_k == 0 ? nullptr : buffers.selected;
  plan.selected_stride = run_->sizes.top_k;
  plan.positions = positions;
  plan.workspace = buffers.ring_workspace;
  plan.sent = buffers.sent_keys;
  plan.own = buffers.own_arriving;
  plan.row_of = buffers.row_of;
  plan.ends = buffers.ring_ends;
  {
    const CudaPhaseSpan span(run_->phases, Phase::kOtherCompute);
    LONGSPAN_RETURN_IF_ERROR(cuda::PlanRing(plan, run_->stream()));
  }
  const int64_t ends = 2 * num_groups * run_->ranks();
  LONGSPAN_RETURN_IF_ERROR(cuda::Copy(run_->ring_ends.data(), buffers.ring_ends,
                                      ends * static_cast<int64_t>(sizeof(uint32_t)),
                                      run_->stream()));
  // It also bounds how long a rank waits for a dead one.
  LONGSPAN_RETURN_IF_ERROR(run_->gpu->communicator->Synchronize(run_->stream()));
  const int last = run_->ranks() - 1;
  LONGSPAN_CHECK(Rows(kSent, num_groups - 1, last).end <= run_->sizes.sent_keys());
  LONGSPAN_CHECK(Rows(kArriving, num_groups - 1, last).end <= run_->sizes.arriving_keys());
  // The ring reads what the main stream stored, and its collectives come behind those there.
  return run_->gpu->Order(run_->gpu->stream, run_->gpu->ring);
}

absl::Status KeyRing::Bring(int group) {
  Gpu* gpu = run_->gpu;
  const CudaBuffers& buffers = run_->buffers;
  std::vector<Transfer> sends, receives;
  for (int r = 0; r < run_->ranks(); ++r) {
    if (r == run_->rank()) continue;
    const Range out = Rows(kSent, group, r);
    const Range in = Rows(kArriving, group, r);
    sends.push_back({r, buffers.sent + out.begin * bytes(), out.size() * bytes()});
    receives.push_back({r, buffers.arrived + in.begin * bytes(), in.size() * bytes()});
  }
  if (run_->phases != nullptr) run_->phases->BeginRing(gpu->ring.get());
  const Range out = {Rows(kSent, group, 0).begin, Rows(kSent, group, run_->ranks() - 1).end};
  LONGSPAN_RETURN_IF_ERROR(
      Gather(buffers.sent_keys + out.begin, out.size(), buffers.sent + out.begin * bytes()));
  const Range own = Rows(kArriving, group, run_->rank());
  LONGSPAN_RETURN_IF_ERROR(
      Gather(buffers.own_arriving + own.begin, own.size(), buffers.arrived + own.begin * bytes()));
  LONGSPAN_RETURN_IF_ERROR(
      gpu->communicator->Exchange("ring.keys", sends, receives, gpu->ring.get()));
  if (run_->phases != nullptr) run_->phases->EndRing(gpu->ring.get());
  // Attention reads what arrived. Ranks without a block here wait too: their next collective in the
  // main stream must come behind this one.
  return gpu->Order(gpu->ring, gpu->stream);
}

Range KeyRing::Rows(Direction direction, int group, int rank) const {
  const auto* const ends = run_->ring_ends.as<uint32_t>() +
                           static_cast<int64_t>(direction) * num_groups_ * run_->ranks();
  const int64_t at = int64_t{group} * run_->ranks() + rank;
  return {at == 0 ? 0 : int64_t{ends[at - 1]}, int64_t{ends[at]}};
}

absl::Status KeyRing::Gather(const uint32_t* local, int64_t count, std::byte* message) {
  cuda::GatherRowsArgs gather;
  gather.layer = run_->cache_layer(layer_);
  gather.pages = pages_;
  gather.local_indices = local;
  gather.max_count = count;
  gather.message = message;
  return cuda::GatherRows(gather, run_->gpu->ring.get());
}

}  // namespace longspan
