#ifndef LONGSPAN_COLLECTIVES_HOSTS_H_
#define LONGSPAN_COLLECTIVES_HOSTS_H_

#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "collectives/communicator.h"

namespace longspan {

// Name of the host that each rank is on. Collective. [rank]
absl::StatusOr<std::vector<std::string>> HostNames(Communicator& communicator);

// How many ranks are on this rank's host. Collective.
absl::StatusOr<int> CountRanksOnHost(Communicator& communicator);

}  // namespace longspan

#endif  // LONGSPAN_COLLECTIVES_HOSTS_H_
