#ifndef LONGSPAN_SHARDING_PROGRAM_TOTALS_H_
#define LONGSPAN_SHARDING_PROGRAM_TOTALS_H_

#include <map>
#include <string_view>
#include <utility>

#include "sharding/cost_model.h"
#include "sharding/hardware_profile.h"
#include "sharding/layer_program.h"
#include "sharding/phase.h"

namespace longspan {

// All that programs ask of kernels and links, whenever it happens: what measured sums of phases and
// of calls are compared with.
struct ProgramTotals {
  struct Kernels {
    double calls = 0;
    Work work;
  };
  // Of one rank, on average.
  std::map<std::pair<Phase, Kernel>, Kernels> kernels;
  // Of gathers, reductions and broadcasts by name. What an exchange costs depends on what goes on
  // beside it, so exchanges are left out.
  std::map<std::string_view, LinkUse> calls;

  // `times` such layers, on `ranks` ranks of the hosts of `profile`, which says nothing else here.
  void Add(const LayerProgram& program, const HardwareProfile& profile, int ranks, double times);
};

}  // namespace longspan

#endif  // LONGSPAN_SHARDING_PROGRAM_TOTALS_H_
