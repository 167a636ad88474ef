#ifndef LONGSPAN_SHARDING_HARDWARE_PROFILE_H_
#define LONGSPAN_SHARDING_HARDWARE_PROFILE_H_

#include <array>
#include <cstdint>
#include <string>

namespace longspan {

// The kinds of work that are timed apart. The enumerators' order is that of kKernelNames.
enum class Kernel {
  kLinear,       // products of a prompt's rows
  kLinearFew,    // products of few rows: decode, logits
  kScore,        // one pass of a chunk's queries over score keys
  kScoreToken,   // the scores of a decoded token
  kSelect,       // local top-k of scores (bytes: the scores)
  kMerge,        // the selection of all ranks' candidates (bytes: the candidates)
  kAttend,       // attention of a prompt
  kAttendToken,  // attention of a decoded token
  kCombine,      // partials become one result (bytes: the partials)
};
inline constexpr int kNumKernels = static_cast<int>(Kernel::kCombine) + 1;
inline constexpr std::array<const char*, kNumKernels> kKernelNames = {
    "linear", "linear_few", "score",        "score_token", "select",
    "merge",  "attend",     "attend_token", "combine"};

// What becomes of a device's floors in one kind of work.
struct KernelCost {
  double efficiency = 1;  // share of the floor's rate that is reached
  double overhead_s = 0;  // of one call, whatever its size
};

// A way from one rank to another. Each rank has a port of its own, which sends and receives at
// this rate at once; where ranks share a network card, it is a rank's share.
struct LinkCost {
  double latency_s = 0;
  double bytes_per_s = 1;
};

// A machine as the cost model sees it: floors, what is reached of them, and links. Read from
// configs/hardware/*.yaml by runtime/hardware_profile.h; docs/SCALING.md says what each number
// means and how it is measured.
struct HardwareProfile {
  std::string name;
  bool is_gpu = false;       // ranks are `device: cuda`
  double bytes_per_s = 1;    // of a rank's memory
  double flops_per_s = 1;    // of matrix products
  int64_t memory_bytes = 0;  // of a rank
  std::array<KernelCost, kNumKernels> kernels = {};

  int64_t ranks_per_host = 1;
  int64_t processors_per_host = 0;  // ranks beyond these take turns; 0: each rank has its own
  LinkCost within_host, between_hosts;
  double call_s = 0;      // what a collective call costs beside its messages
  double plan_s = 0;      // to plan a ring, and
  double plan_key_s = 0;  // for each key that any rank's block lists
  double step_s = 0;      // what a forward pass costs beside kernels and collectives

  const KernelCost& kernel(Kernel kind) const { return kernels[static_cast<int>(kind)]; }
  int64_t host(int64_t rank) const { return rank / ranks_per_host; }
};

}  // namespace longspan

#endif  // LONGSPAN_SHARDING_HARDWARE_PROFILE_H_
