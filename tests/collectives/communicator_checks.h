#ifndef LONGSPAN_TESTS_COLLECTIVES_COMMUNICATOR_CHECKS_H_
#define LONGSPAN_TESTS_COLLECTIVES_COMMUNICATOR_CHECKS_H_

#include <ostream>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "collectives/communicator.h"

namespace longspan {

// What every communicator must do, whatever carries it. A check makes the same calls on all ranks
// also after a mismatch, and returns what it found at the end.
struct CommunicatorCheck {
  std::string name;
  absl::Status (*run)(Communicator&);

  friend void PrintTo(const CommunicatorCheck& check, std::ostream* out) { *out << check.name; }
};
const std::vector<CommunicatorCheck>& CommunicatorChecks();

}  // namespace longspan

#endif  // LONGSPAN_TESTS_COLLECTIVES_COMMUNICATOR_CHECKS_H_
