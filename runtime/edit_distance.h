#ifndef LONGSPAN_RUNTIME_EDIT_DISTANCE_H_
#define LONGSPAN_RUNTIME_EDIT_DISTANCE_H_

#include <cstdint>

#include "absl/strings/string_view.h"

namespace longspan {

// Bytes to insert, delete or replace to make `a` into `b`, at least (Levenshtein's distance): how
// messages find the name that was meant.
int64_t EditDistance(absl::string_view a, absl::string_view b);

}  // namespace longspan

#endif  // LONGSPAN_RUNTIME_EDIT_DISTANCE_H_
