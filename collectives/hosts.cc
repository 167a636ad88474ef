#include "collectives/hosts.h"

#include <unistd.h>

#include <algorithm>

#include "kernels/base/status_macros.h"

namespace longspan {

absl::StatusOr<std::vector<std::string>> HostNames(Communicator& communicator) {
  constexpr int64_t kBytes = 256;
  char name[kBytes] = {};
  gethostname(name, kBytes - 1);
  std::vector<char> all(communicator.size() * kBytes);
  LONGSPAN_RETURN_IF_ERROR(communicator.AllGather("host.names", name, all.data(), kBytes));
  std::vector<std::string> names;
  for (int r = 0; r < communicator.size(); ++r) names.emplace_back(all.data() + r * kBytes);
  return names;
}

absl::StatusOr<int> CountRanksOnHost(Communicator& communicator) {
  LONGSPAN_ASSIGN_OR_RETURN(const std::vector<std::string> names, HostNames(communicator));
  return static_cast<int>(std::count(names.begin(), names.end(), names[communicator.rank()]));
}

}  // namespace longspan
