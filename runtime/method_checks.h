#ifndef LONGSPAN_RUNTIME_METHOD_CHECKS_H_
#define LONGSPAN_RUNTIME_METHOD_CHECKS_H_

#include "absl/status/status.h"
#include "runtime/config.h"

namespace longspan {

// Refuses settings of how tokens are selected and attended to (`esa.score`, `esa.target`,
// `esa.unit_tokens`, `rope.scaling`) that cannot work, with what to change. InvalidArgument.
absl::Status CheckMethod(const Config& config);

}  // namespace longspan

#endif  // LONGSPAN_RUNTIME_METHOD_CHECKS_H_
