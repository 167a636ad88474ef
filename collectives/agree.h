#ifndef LONGSPAN_COLLECTIVES_AGREE_H_
#define LONGSPAN_COLLECTIVES_AGREE_H_

#include "absl/status/status.h"
#include "collectives/communicator.h"

namespace longspan {

// The same answer on every rank: OK if `status` is OK on all, otherwise the error of the lowest
// rank that has one (its message cut to some 900 bytes). Collective.
absl::Status AgreeOnStatus(Communicator* communicator, const absl::Status& status);

// Whether AgreeOnStatus gave this error: then every rank of its communicator has it, and none waits
// for another.
bool IsAgreed(const absl::Status& status);

}  // namespace longspan

#endif  // LONGSPAN_COLLECTIVES_AGREE_H_
