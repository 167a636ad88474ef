#ifndef LONGSPAN_KERNELS_BASE_CHECK_H_
#define LONGSPAN_KERNELS_BASE_CHECK_H_

// LONGSPAN_CHECK: for programmer errors only; whatever a user can cause returns an absl::Status.
namespace longspan::internal {
[[noreturn]] void CheckFailed(const char* expression, const char* file, int line);
}  // namespace longspan::internal

#define LONGSPAN_CHECK(condition)     \
  ((condition) ? static_cast<void>(0) \
               : ::longspan::internal::CheckFailed(#condition, __FILE__, __LINE__))

#endif  // LONGSPAN_KERNELS_BASE_CHECK_H_
