#ifndef LONGSPAN_LAUNCHER_BENCH_COLLECTIVES_H_
#define LONGSPAN_LAUNCHER_BENCH_COLLECTIVES_H_

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"
#include "collectives/communicator.h"
#include "launcher/bench_report.h"
#include "launcher/bench_shape.h"
#include "sharding/layer_schedule.h"

namespace longspan {

// What `bench collectives` measures: one collective of a layer, or one of the ring.
struct CollectiveCase {
  std::string name;
  CollectiveKind kind = CollectiveKind::kAllGather;
  int64_t bytes = 0;  // of one rank: its part, its numbers, its message to the next rank

  // Of a reduction, of float or uint32.
  int64_t count() const { return bytes / static_cast<int64_t>(sizeof(float)); }
  // Of what a call reads and writes: this rank's part, and all that arrives.
  int64_t buffer_bytes(int ranks) const {
    return bytes * (kind == CollectiveKind::kAllGather ? 1 + ranks : 2);
  }
  // What one rank sends at least, however the collective is done.
  int64_t sent_bytes(int ranks) const {
    return kind == CollectiveKind::kAllGather ? bytes * (ranks - 1) : bytes;
  }
  std::string ToString() const;  // "16384 bytes of each rank"
};

// The inverse of ToString, and of CollectiveRow's shape; unset: it is neither.
std::optional<CollectiveCase> ParseCollectiveCase(absl::string_view name, absl::string_view shape);

// Those of a decoded token of each of `batch` sequences, of a whole chunk, with either merge of
// candidates, and steps of the ring of 4 KiB to 16 MiB.
std::vector<CollectiveCase> CollectiveCases(const BenchShape& shape, int64_t batch, bool on_gpu);

// The transfers of one step of the ring: to the next rank, and from the one before. `memory` has
// room for two messages.
struct RingStep {
  Transfer send, receive;
};
RingStep NextRank(const CollectiveCase& of, int rank, int ranks, std::byte* memory);

// Of the seconds of each run; `way`: how it was done, if there are several.
BenchRow CollectiveRow(const CollectiveCase& of, absl::string_view way, std::vector<double> seconds,
                       int ranks);

}  // namespace longspan

#endif  // LONGSPAN_LAUNCHER_BENCH_COLLECTIVES_H_
