#ifndef LONGSPAN_RUNTIME_CUDA_CUDA_RING_H_
#define LONGSPAN_RUNTIME_CUDA_CUDA_RING_H_

#include <cstddef>
#include <cstdint>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "kernels/base/status_macros.h"
#include "runtime/cuda/arena.h"
#include "runtime/cuda/cuda_run.h"
#include "sharding/ring_schedule.h"

namespace longspan {

// Brings what this rank's blocks read in one layer to run->buffers.arrived, rows of a key and its
// value, one group of blocks after the other. A token comes once: a later group finds there what it
// shares with those before, so groups cost no bytes.
//
// The ring has a stream of its own, ahead of the main one, which attends to one group while the
// next one's keys come. What the host tells either goes through a third stream: a copy from memory
// that is not page-locked, unless it is small, makes the host wait for its turn, and behind a
// collective that would be forever if another rank died.
class KeyRing {
 public:
  KeyRing(CudaRun* run, int64_t layer, KvShard* cache) : run_(run), layer_(layer), cache_(cache) {}

  // Waits for the main stream: everything in the buffers of the ring may then be written. First.
  absl::Status Start();
  // Brings what `blocks`, a group of all ranks, read and earlier groups did not. What is put in the
  // main stream from now on finds it there. Collective.
  absl::Status Bring(absl::Span<const BlockKeys> blocks);
  // Row in `arrived` of a position that was brought.
  uint32_t RowOf(int64_t position) const { return run_->arrived_rows[position]; }

  // Copies values to memory that stays theirs for this layer. They are there for what is put in the
  // main stream behind ShowLists.
  template <typename T>
  absl::StatusOr<const T*> Upload(absl::Span<const T> values) {
    T* const to = lists_.Take<T>(static_cast<int64_t>(values.size()));
    LONGSPAN_CHECK(lists_.bytes() <= run_->buffers.ring_list_bytes);
    const auto bytes = static_cast<int64_t>(values.size() * sizeof(T));
    if (bytes > 0) {
      LONGSPAN_RETURN_IF_ERROR(cuda::Copy(to, values.data(), bytes, run_->gpu->uploads.get()));
    }
    return to;
  }
  absl::Status ShowLists() { return run_->gpu->Order(run_->gpu->uploads, run_->gpu->stream); }
  // Device [1]: `arrived`, the one page that its rows lie in.
  const std::byte* const* arrived_page() const { return pages_; }

 private:
  // The local indices of what is sent, by destination, and of this rank's own share.
  struct Outgoing {
    std::vector<uint32_t> local;
    std::vector<Transfer> sends;
    int64_t sent = 0;  // of `local`; the rest is this rank's
  };
  Outgoing PlanSends(const RingRound& round) const;
  // Rows for what comes; `own_row` is the first of this rank's share.
  std::vector<Transfer> PlanReceives(const RingRound& round, int64_t* own_row);
  absl::Status Gather(const uint32_t* local, int64_t count, std::byte* message);
  int64_t bytes() const { return 2 * run_->sizes.kv.row_bytes(); }

  CudaRun* run_;
  int64_t layer_;
  KvShard* cache_;
  Arena lists_;
  const std::byte* const* pages_ = nullptr;  // device: `arrived`, then the cache's pages
  std::vector<std::vector<Range>> brought_;
  int64_t sent_ = 0;     // rows that groups before took of buffers.sent
  int64_t arrived_ = 0;  // and of buffers.arrived
};

}  // namespace longspan

#endif  // LONGSPAN_RUNTIME_CUDA_CUDA_RING_H_
