#ifndef LONGSPAN_TESTS_COLLECTIVES_DEVICE_COMMUNICATOR_CHECKS_H_
#define LONGSPAN_TESTS_COLLECTIVES_DEVICE_COMMUNICATOR_CHECKS_H_

#include <ostream>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "collectives/device_communicator.h"

namespace longspan {

// What every device communicator must do, on the calling thread's device. A check makes the same
// calls on all ranks also after a mismatch, and returns what it found at the end.
struct DeviceCheck {
  std::string name;
  absl::Status (*run)(DeviceCommunicator&);

  friend void PrintTo(const DeviceCheck& check, std::ostream* out) { *out << check.name; }
};
const std::vector<DeviceCheck>& DeviceChecks();

}  // namespace longspan

#endif  // LONGSPAN_TESTS_COLLECTIVES_DEVICE_COMMUNICATOR_CHECKS_H_
