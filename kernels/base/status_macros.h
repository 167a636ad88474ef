#ifndef LONGSPAN_KERNELS_BASE_STATUS_MACROS_H_
#define LONGSPAN_KERNELS_BASE_STATUS_MACROS_H_

#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

#define LONGSPAN_RETURN_IF_ERROR(expression)                                \
  do {                                                                      \
    if (absl::Status status_ = (expression); !status_.ok()) return status_; \
  } while (false)

#define LONGSPAN_STATUS_CONCAT_INNER(a, b) a##b
#define LONGSPAN_STATUS_CONCAT(a, b) LONGSPAN_STATUS_CONCAT_INNER(a, b)
#define LONGSPAN_ASSIGN_OR_RETURN(lhs, expression) \
  LONGSPAN_ASSIGN_OR_RETURN_IMPL(LONGSPAN_STATUS_CONCAT(status_or_, __LINE__), lhs, expression)
#define LONGSPAN_ASSIGN_OR_RETURN_IMPL(variable, lhs, expression) \
  auto variable = (expression);                                   \
  if (!variable.ok()) return std::move(variable).status();        \
  lhs = *std::move(variable)

#endif  // LONGSPAN_KERNELS_BASE_STATUS_MACROS_H_
