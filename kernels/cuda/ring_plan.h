#ifndef LONGSPAN_KERNELS_CUDA_RING_PLAN_H_
#define LONGSPAN_KERNELS_CUDA_RING_PLAN_H_

#include <cstddef>
#include <cstdint>

#include "absl/status/status.h"
#include "kernels/cuda/device.h"
#include "kernels/cuda/key_list.h"
#include "kernels/cuda/shard_view.h"
#include "sharding/topk_merge.h"

// From what the blocks of all ranks read to what this rank sends and receives: what PlanGroup of
// sharding/ring_schedule.h plans. The host needs to know no more of it than how long messages are.
namespace longspan::cuda {

// A block of some rank. Lives in device memory.
struct RingBlock {
  KeyRanges keys;
  int64_t num_selected = 0;
  int32_t reader = 0;  // the rank
  int32_t group = 0;   // 0 <= group < num_groups
};

struct RingPlanArgs {
  ShardGeometry geometry;
  const RingBlock* blocks = nullptr;  // device [num_blocks], of all ranks
  int num_blocks = 0;
  int num_groups = 1;
  const Candidate* selected = nullptr;  // device [rows, selected_stride]; null: none
  int64_t selected_stride = 0;
  int64_t positions = 0;           // all that is read lies below
  std::byte* workspace = nullptr;  // device, RingPlanWorkspaceBytes of as many positions or more

  // What one group's blocks read and no earlier group's did, by group, then by rank; ascending by
  // position. Ranks are destinations of what is sent, this one left out, and owners of what
  // arrives, this one among them. All on the device.
  uint32_t* sent = nullptr;    // [tokens that are sent] local index here (ShardGeometry)
  uint32_t* own = nullptr;     // [tokens that arrive] the same; only of those that are this rank's
  uint32_t* row_of = nullptr;  // [positions] place among those that arrive; only of these
  uint32_t* ends = nullptr;    // [2, num_groups, num_ranks] where what is sent to a rank, and what
                               // arrives from it, ends in a group
};

int64_t RingPlanWorkspaceBytes(const ShardGeometry& geometry, int num_groups, int64_t positions);

absl::Status PlanRing(const RingPlanArgs& args, Stream stream);

}  // namespace longspan::cuda

#endif  // LONGSPAN_KERNELS_CUDA_RING_PLAN_H_
