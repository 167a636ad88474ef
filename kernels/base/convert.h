#ifndef LONGSPAN_KERNELS_BASE_CONVERT_H_
#define LONGSPAN_KERNELS_BASE_CONVERT_H_

#include <cstdint>

#include "kernels/base/dtype.h"

namespace longspan {

// The one place where a runtime dtype becomes a type: calls f(T{}) with the storage type.
template <typename F>
decltype(auto) DispatchDType(DType dtype, F&& f) {
  switch (dtype) {
    case DType::kBFloat16:
      return f(BFloat16{});
    case DType::kFloat16:
      return f(Float16{});
    case DType::kFloat8E4M3:
      return f(Float8E4M3{});
    case DType::kFloat32:
      break;
  }
  return f(float{});
}

// Conversion of contiguous elements.
void ConvertToFloat(const void* source, DType dtype, int64_t count, float* out);
void ConvertFromFloat(const float* source, int64_t count, DType dtype, void* out);

}  // namespace longspan

#endif  // LONGSPAN_KERNELS_BASE_CONVERT_H_
