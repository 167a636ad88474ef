#ifndef LONGSPAN_SHARDING_SIMULATOR_H_
#define LONGSPAN_SHARDING_SIMULATOR_H_

#include <array>
#include <cstdint>
#include <map>
#include <string_view>
#include <vector>

#include "absl/types/span.h"
#include "sharding/hardware_profile.h"
#include "sharding/layer_program.h"

namespace longspan {

// All calls of one name.
struct CallTotals {
  double calls = 0;  // a prediction of several passes has parts of them
  double bytes = 0;  // through the port of a rank, one way, on average
};

// What a gather, reduction or broadcast asks of links.
LinkUse CollectiveUse(const HardwareProfile& profile, int ranks, const Collective& collective);

// Replays programs on modelled kernels and links. Each rank has a clock and a port:
// - work takes KernelSeconds; ranks do not wait for each other in it;
// - a gather or reduction begins when the last rank has arrived, and then takes LinkSeconds for
// all;
// - a message begins when both ends have made the call and both ports are free, a port sending and
//   receiving one at a time each; it is there after a latency and its bytes, and holds the ports
//   for the bytes alone. Exchanges go on while ranks compute. Messages of one call start in order
//   of steps of the ring;
// - every rank plans a ring from the keys of all blocks, the next group's while it attends to one;
// - nothing else takes time: packing, the operating system.
// A function of its inputs alone.
class Simulator {
 public:
  Simulator(const HardwareProfile& profile, int num_ranks);

  void Run(const LayerProgram& program);
  // A collective, or work, outside of a layer.
  void Run(const LayerOp& op);

  double seconds() const;  // of the last rank
  // Of the rank with most, and of all on average, in one phase; a wait for other ranks is part of
  // the phase of the call that waits. Sums of the average over phases are the average clock.
  double MostSeconds(Phase phase) const;
  double MeanSeconds(Phase phase) const;
  // What a rank waits in all-gathers, reductions and broadcasts for the last one to arrive, on
  // average: imbalance.
  double mean_imbalance() const;
  // What messages to a rank took, on average, whether hidden behind work or not.
  double mean_exchange() const;
  const std::map<std::string_view, CallTotals>& calls() const { return calls_; }

 private:
  // The exchange call of a ring's step that a rank made last, and when.
  struct RingCall {
    int step = 0;
    double started = 0;
  };

  void Run(Phase phase, const Compute& compute);
  void Run(Phase phase, const Collective& collective);
  void Run(Phase phase, const RingOfKeys& ring);
  void Run(Phase phase, const RingOfQueries& ring);
  void Run(Phase phase, const GroupsOfKeys& groups);

  void SpendOnPlan(Phase phase, int64_t listed_keys);
  void Start(Phase phase, int rank, int step, RingCall* call);
  // Moves what goes in one step, and has its ranks wait for it and start the next one. Bytes.
  int64_t MoveKeys(Phase phase, absl::Span<const RingShare> shares, int step, int64_t token_bytes,
                   std::vector<RingCall>* calls);

  // The rank's clock moves on to `time`, or by as much.
  void Advance(Phase phase, int rank, double time);
  void Spend(Phase phase, int rank, double seconds);
  void Attend(int rank, const Work& work);
  // When a message that both ends have asked for by `ready` has arrived.
  double Transmit(const Message& message, double ready);
  void Count(std::string_view name, int64_t calls, double bytes);

  HardwareProfile profile_;
  int ranks_;
  std::vector<double> now_;                             // [ranks] clocks
  std::vector<double> sending_, receiving_;             // [ranks] until when ports are taken
  std::array<std::vector<double>, kNumPhases> phases_;  // [ranks]
  std::vector<double> imbalance_, exchanged_;           // [ranks]
  std::map<std::string_view, CallTotals> calls_;
};

}  // namespace longspan

#endif  // LONGSPAN_SHARDING_SIMULATOR_H_
