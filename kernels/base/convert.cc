#include "kernels/base/convert.h"

#include <cstring>

#include "kernels/base/check.h"

namespace longspan {

void ConvertToFloat(const void* source, DType dtype, int64_t count, float* out) {
  if (dtype == DType::kFloat32) {
    if (count > 0) std::memcpy(out, source, count * sizeof(float));  // empty arrays may be null
    return;
  }
  DispatchDType(dtype, [&]<typename T>(T) {
    const auto* in = static_cast<const T*>(source);
    for (int64_t i = 0; i < count; ++i) out[i] = ToFloat(in[i]);
  });
}

void ConvertFromFloat(const float* source, int64_t count, DType dtype, void* out) {
  if (dtype == DType::kFloat32) {
    if (count > 0) std::memcpy(out, source, count * sizeof(float));  // empty arrays may be null
    return;
  }
  LONGSPAN_CHECK(dtype == DType::kBFloat16 || dtype == DType::kFloat8E4M3);
  const auto convert = [&]<typename T>(T* to) {
    for (int64_t i = 0; i < count; ++i) FromFloat(source[i], to + i);
  };
  if (dtype == DType::kBFloat16) {
    convert(static_cast<BFloat16*>(out));
  } else {
    convert(static_cast<Float8E4M3*>(out));
  }
}

}  // namespace longspan
