#ifndef LONGSPAN_RUNTIME_CUDA_CUDA_RING_H_
#define LONGSPAN_RUNTIME_CUDA_CUDA_RING_H_

#include <cstddef>
#include <cstdint>

#include "absl/status/status.h"
#include "kernels/cuda/ring_plan.h"
#include "runtime/cuda/cuda_run.h"

namespace longspan {

// Brings what this rank's blocks read in one layer to run->buffers.arrived, rows of a key and its
// value, one group of blocks after the other. A token comes once: a later group finds there what it
// shares with those before, so groups cost no bytes.
//
// The ring has a stream of its own, ahead of the main one, which attends to one group while the
// next one's keys come.
class KeyRing {
 public:
  // pages: device, of this rank's cache.
  KeyRing(CudaRun* run, int64_t layer, const std::byte* const* pages)
      : run_(run), layer_(layer), pages_(pages) {}

  // Plans for `blocks` of all ranks, device [num_blocks], in `num_groups` groups, which read below
  // `positions`. Waits for the main stream: the host must know how long messages are. First.
  absl::Status Plan(const cuda::RingBlock* blocks, int num_blocks, int num_groups,
                    int64_t positions);
  // Brings what a group's blocks read and earlier groups did not. What is put in the main stream
  // from now on finds it there. Group after group. Collective.
  absl::Status Bring(int group);

 private:
  // Rows of a message: [first, end) of what is sent or arrives in all.
  enum Direction { kSent, kArriving };
  Range Rows(Direction direction, int group, int rank) const;
  absl::Status Gather(const uint32_t* local, int64_t count, std::byte* message);
  int64_t bytes() const { return 2 * run_->sizes.kv.row_bytes(); }

  CudaRun* run_;
  int64_t layer_;
  const std::byte* const* pages_;
  int num_groups_ = 0;
};

}  // namespace longspan

#endif  // LONGSPAN_RUNTIME_CUDA_CUDA_RING_H_
