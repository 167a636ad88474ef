#include "sharding/program_totals.h"

#include <variant>
#include <vector>

#include "sharding/simulator.h"

namespace longspan {
namespace {

LinkUse Times(const LinkUse& use, double times) {
  return {use.calls * times, use.steps_within * times, use.bytes_within * times,
          use.steps_between * times, use.bytes_between * times};
}

// Adds the ops of one program.
class Adder {
 public:
  Adder(const HardwareProfile& profile, int ranks, double times, ProgramTotals* totals)
      : profile_(profile), ranks_(ranks), times_(times), totals_(totals) {}

  void Add(Phase phase, const Compute& compute) {
    for (const Work& work : compute.work) AddWork(phase, compute.kernel, work);
  }
  void Add(Phase, const Collective& collective) {
    if (collective.kind == CollectiveKind::kExchange || ranks_ == 1) return;
    LinkUse& sum = totals_->calls[collective.name];
    sum = sum + Times(CollectiveUse(profile_, ranks_, collective), times_);
  }
  void Add(Phase, const RingOfKeys& ring) {
    for (const RingTraffic& round : ring.rounds) AddShares(round, ring.cost);
  }
  void Add(Phase, const RingOfQueries& ring) { AddShares(ring.reads, ring.cost); }
  void Add(Phase, const GroupsOfKeys& groups) {
    for (const GroupsOfKeys::Group& group : groups.groups) {
      for (const Work& work : group.attend) AddWork(Phase::kAttend, Kernel::kAttend, work);
    }
  }

 private:
  void AddShares(const RingTraffic& traffic, const AttentionCost& cost) {
    for (const RingShare& share : traffic.shares) {
      AddWork(Phase::kAttend, Kernel::kAttend, cost.Of(share));
    }
  }
  // Of one rank.
  void AddWork(Phase phase, Kernel kernel, const Work& work) {
    if (work.bytes <= 0 && work.flops <= 0) return;
    ProgramTotals::Kernels& sum = totals_->kernels[{phase, kernel}];
    sum.calls += times_ / ranks_;
    sum.work = sum.work + work * (times_ / ranks_);
  }

  const HardwareProfile& profile_;
  int ranks_;
  double times_;
  ProgramTotals* totals_;
};

}  // namespace

void ProgramTotals::Add(const LayerProgram& program, const HardwareProfile& profile, int ranks,
                        double times) {
  Adder adder(profile, ranks, times, this);
  for (const LayerOp& op : program) {
    std::visit([&](const auto& what) { adder.Add(op.phase, what); }, op.what);
  }
}

}  // namespace longspan
